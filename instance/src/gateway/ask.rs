//! Asks the other members' instance managers who is the primary (`/gateway`), while the own member
//! is silent or somebody waits: the own Postgres may be the one that was just killed. Also keeps
//! the addresses of all members at hand, for when nobody resolves their names.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::Gateway;
use crate::settings::host_port;
use crate::{peers, upstream};

/// Between two rounds of questions.
const INTERVAL: Duration = Duration::from_millis(50);
/// The same where nobody is in a hurry: the own member is silent, and there are no clients.
const IDLE_ROUNDS: u32 = 20;
/// How often the members' addresses are looked up.
const ROUNDS_PER_LOOKUP: u32 = 200;

/// For as long as the process lives.
pub async fn ask(gateway: Arc<Gateway>) {
    let (mut answers, mut busy, mut round) = (JoinSet::new(), BTreeSet::<SocketAddr>::new(), 0_u32);
    let (mut addresses, mut looks) = (vec![], JoinSet::new());
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(answer) = answers.join_next() => {
                if let Ok((address, primary_view)) = answer {
                    busy.remove(&address);
                    if let Some(primary_view) = primary_view {
                        gateway.knowledge.heard(primary_view);
                    }
                }
                continue;
            }
            Some(found) = looks.join_next() => {
                addresses = found.unwrap_or_default();
                continue;
            }
            _ = tick.tick() => {}
        }
        let due = round.is_multiple_of(ROUNDS_PER_LOOKUP)
            || (addresses.is_empty() && round.is_multiple_of(IDLE_ROUNDS));
        if due && looks.is_empty() {
            looks.spawn(look_up(Arc::clone(&gateway)));
        }
        let figures = gateway.figures.read();
        let hurry = figures.held > 0 || (!gateway.knowledge.answered() && figures.open > 0);
        if hurry || (!gateway.knowledge.answered() && round.is_multiple_of(IDLE_ROUNDS)) {
            for address in &addresses {
                if busy.insert(*address) {
                    let address = *address;
                    answers.spawn(async move { (address, peers::primary_view(address).await) });
                }
            }
        }
        round = round.wrapping_add(1);
    }
}

/// Every member's instance manager: those of the configuration, and at the hosts that
/// `instance.json` has.
async fn look_up(gateway: Arc<Gateway>) -> Vec<SocketAddr> {
    let settings = Arc::clone(&gateway.view.borrow().settings);
    let configured = settings
        .config
        .peers
        .iter()
        .filter_map(|peer| host_port(peer))
        .map(|(host, port)| (host.to_owned(), port));
    let file = upstream::instance_file(&settings.paths, settings.node).ok().flatten();
    let port = host_port(&settings.config.http_listen).map_or(0, |(_, port)| port);
    let members = file
        .into_iter()
        .flat_map(|f| f.members)
        .filter(|m| m.node_id != settings.node)
        .filter_map(|m| m.postgres);
    let hosts: BTreeSet<(String, u16)> =
        configured.chain(members.map(|at| (at.host().to_owned(), port))).collect();
    let looked_up = hosts.iter().map(|(host, port)| gateway.names.addresses(host, *port));
    let found: BTreeSet<SocketAddr> =
        futures::future::join_all(looked_up).await.into_iter().flatten().collect();
    found.into_iter().collect()
}
