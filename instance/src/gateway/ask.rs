//! Asks the other members' instance managers for their primary view (`/gateway`) while this node's
//! member is silent or a client is held: this node's Postgres may be the one that was just killed.
//! Also resolves the addresses of all members in advance, in case DNS fails together with a member.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::Gateway;
use crate::settings::host_port;
use crate::{peers, upstream};

/// Between two rounds.
const INTERVAL: Duration = Duration::from_millis(50);
/// While the member is silent and there are no clients, one in this many rounds asks.
const IDLE_ROUNDS: u32 = 20;
/// One in this many rounds resolves the members' addresses.
const ROUNDS_PER_LOOKUP: u32 = 200;

/// Runs until the process ends.
pub async fn ask(gateway: Arc<Gateway>) {
    let (mut answers, mut busy, mut round) = (JoinSet::new(), BTreeSet::<SocketAddr>::new(), 0_u32);
    let (mut addresses, mut lookups) = (vec![], JoinSet::new());
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(answer) = answers.join_next() => {
                if let Ok((address, primary_view)) = answer {
                    busy.remove(&address);
                    if let Some(primary_view) = primary_view {
                        gateway.knowledge.merge(primary_view);
                    }
                }
                continue;
            }
            Some(found) = lookups.join_next() => {
                addresses = found.unwrap_or_default();
                continue;
            }
            _ = tick.tick() => {}
        }
        let due = round.is_multiple_of(ROUNDS_PER_LOOKUP)
            || (addresses.is_empty() && round.is_multiple_of(IDLE_ROUNDS));
        if due && lookups.is_empty() {
            lookups.spawn(look_up(Arc::clone(&gateway)));
        }
        let clients = gateway.counters.read();
        let silent = !gateway.knowledge.member_answers();
        let urgent = clients.held > 0 || (silent && clients.open > 0);
        if urgent || (silent && round.is_multiple_of(IDLE_ROUNDS)) {
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

/// The addresses of all other instance managers: the configured peers, and the members' hosts in
/// `instance.json`.
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
