//! Which processes have loaded which `synchronous_standby_names`.
//!
//! Each walsender releases waiting commits by its own copy of the names, and the checkpointer
//! publishes whether there are any. The configuration file that sets the names then sets
//! `pgraft.sync_change` to the number of the change. Its assign hook stores the number in shared
//! memory, in every process that loads the file. The worker waits until all processes have the
//! number before it notes the position that the new standbys must confirm.

use std::sync::atomic::{AtomicI32, Ordering};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_guard, pg_shmem_init, pg_sys};

use crate::gucs;
use crate::shmem::words::{AtomicWords, NAMES, NAMES_WALSENDERS};

static SYNC_CHANGE: GucSetting<i32> = GucSetting::<i32>::new(0);
/// The number that this process has loaded; inherited from the postmaster.
static LOADED: AtomicI32 = AtomicI32::new(0);

/// The words of the page: the checkpointer's number, then `pid << 32 | number` of the walsenders.
const CHECKPOINTER: usize = 0;
const WALSENDERS: usize = 2;

/// Defines the setting. Called by the postmaster only.
pub fn define() {
    // SAFETY: the hook cannot fail.
    unsafe {
        GucRegistry::define_int_guc_with_hooks(
            c"pgraft.sync_change",
            c"Shows the change number of synchronous_standby_names.",
            c"Set by the pgraft worker in the file with the names.",
            &SYNC_CHANGE,
            0,
            i32::MAX,
            GucContext::Sighup,
            GucFlags::NO_SHOW_ALL | GucFlags::DISALLOW_IN_AUTO_FILE,
            None,
            Some(assigned),
            None,
        );
    }
}

/// Requests the page from the postmaster.
pub fn request() {
    pg_shmem_init!(NAMES = first_page());
}

/// The initial page: the checkpointer inherits the number of the postmaster.
fn first_page() -> AtomicWords<{ 2 + NAMES_WALSENDERS }> {
    let page = AtomicWords::default();
    page[CHECKPOINTER].store(packed(0, LOADED.load(Ordering::Relaxed)), Ordering::Relaxed);
    page
}

/// # Safety
/// Called by Postgres when this process assigns a value.
unsafe extern "C-unwind" fn assigned(value: i32, _: *mut std::ffi::c_void) {
    LOADED.store(value, Ordering::SeqCst);
    if !gucs::failover() {
        return;
    }
    // SAFETY: a variable of this process.
    match unsafe { pg_sys::MyBackendType } {
        pg_sys::BackendType::B_CHECKPOINTER => {
            NAMES.get()[CHECKPOINTER].store(packed(0, value), Ordering::SeqCst);
        }
        pg_sys::BackendType::B_WAL_SENDER => {
            // The priority of this walsender under the new names must be in shared memory before
            // the number is. SAFETY: null before it has its slot there, else its own.
            if !unsafe { pg_sys::MyWalSnd }.is_null() {
                // SAFETY: as a walsender itself does after it has loaded the files.
                unsafe { SyncRepInitConfig() };
            }
            store(std::process::id(), value);
        }
        _ => {}
    }
}

unsafe extern "C-unwind" {
    fn SyncRepInitConfig();
}

const fn packed(pid: u32, value: i32) -> u64 {
    (pid as u64) << 32 | value.cast_unsigned() as u64
}

fn walsenders() -> &'static [std::sync::atomic::AtomicU64] {
    &NAMES.get()[WALSENDERS..]
}

/// Stores a walsender's number, if it is registered.
fn store(pid: u32, value: i32) {
    if let Some(word) =
        walsenders().iter().find(|w| w.load(Ordering::SeqCst) >> 32 == u64::from(pid))
    {
        word.store(packed(pid, value), Ordering::SeqCst);
    }
}

/// Registers this walsender with the number that it has inherited. Called by every new walsender
/// before it streams.
pub fn register_walsender() {
    let mine = packed(std::process::id(), LOADED.load(Ordering::SeqCst));
    let free = |w: &&std::sync::atomic::AtomicU64| {
        w.compare_exchange(0, mine, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    };
    if walsenders().iter().find(free).is_some() {
        // SAFETY: on the main thread; the callback takes no argument.
        unsafe { pg_sys::on_shmem_exit(Some(leave), pg_sys::Datum::from(0)) };
    }
}

/// # Safety
/// Called by Postgres when this walsender ends.
unsafe extern "C-unwind" fn leave(_: i32, _: pg_sys::Datum) {
    for word in walsenders()
        .iter()
        .filter(|w| w.load(Ordering::SeqCst) >> 32 == u64::from(std::process::id()))
    {
        word.store(0, Ordering::SeqCst);
    }
}

/// Whether the checkpointer and every streaming walsender have loaded the names of that change. From
/// any thread.
pub fn loaded_everywhere(value: i32) -> bool {
    NAMES.get()[CHECKPOINTER].load(Ordering::SeqCst) == packed(0, value)
        && streaming().all(|pid| has_loaded(pid, value))
}

fn has_loaded(pid: u32, value: i32) -> bool {
    walsenders().iter().any(|w| w.load(Ordering::SeqCst) == packed(pid, value))
}

/// The walsenders that release commits or are about to.
fn streaming() -> impl Iterator<Item = u32> {
    use pg_sys::WalSndState::{WALSNDSTATE_CATCHUP, WALSNDSTATE_STOPPING, WALSNDSTATE_STREAMING};
    // SAFETY: set by the postmaster before any process starts.
    let places = usize::try_from(unsafe { pg_sys::max_wal_senders }).unwrap_or(0);
    (0..places).filter_map(|n| {
        // SAFETY: an array of that length in shared memory, which exists before the worker starts.
        let place =
            unsafe { (&raw const (*pg_sys::WalSndCtl).walsnds).cast::<pg_sys::WalSnd>().add(n) };
        // SAFETY: as above; a word that Postgres writes atomically.
        let state = unsafe { (&raw const (*place).state).read_volatile() };
        // SAFETY: as above.
        let pid = unsafe { (&raw const (*place).pid).read_volatile() };
        let releases =
            matches!(state, WALSNDSTATE_CATCHUP | WALSNDSTATE_STREAMING | WALSNDSTATE_STOPPING);
        u32::try_from(pid).ok().filter(|pid| *pid != 0 && releases)
    })
}

/// Whether backends wait for standbys: the checkpointer has published that there are names. From any
/// thread.
pub fn sync_defined() -> bool {
    // SAFETY: shared memory that exists before the worker starts; one byte.
    let status = unsafe { (&raw const (*pg_sys::WalSndCtl).sync_standbys_status).read_volatile() };
    u32::from(status) & pg_sys::SYNC_STANDBY_DEFINED != 0
}
