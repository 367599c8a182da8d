//! A client of the Service `-rw` in failovers without help from outside the databases: the
//! primary's host is stopped, the primary is cut off from the other members, and with the API
//! server stopped, a follower restarts and the primary's server is killed.

use serde_json::json;
use std::time::Duration;

use crate::cluster::{KindCluster, NAME, TIMEOUT};
use crate::cut::NetworkCut;
use crate::data;
use crate::ensure;
use crate::failure::E2eFailure;
use crate::host_job::{HostJob, PAUSE, time_of};
use crate::primary_term::{all_back, place, primary};
use crate::scenario::ReportedFigure;
use crate::writer::{Connections, LoadWriter};

const MEMBERS: [i32; 3] = [1, 2, 3];
const WITHOUT_API: &str = include_str!("../scripts/without_api.sh");
/// How long the primary's host is stopped: less than Kubernetes takes to notice.
const PAUSED_SECONDS: i64 = 15;
/// The time limit of the script without an API server. Its own limits add up to less.
const OUTAGE: Duration = Duration::from_mins(15);

pub async fn run(cluster: KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    cluster.create(3, &json!({ "failover": { "enabled": true } })).await?;
    let bootstrap = primary(&cluster, &MEMBERS).await?;
    data::write(&cluster, bootstrap, 10).await?;
    let paused = paused(&cluster).await?;
    let cut = cut_off(&cluster).await?;
    let mut figures = vec![
        figure("the primary's host is stopped", paused),
        figure("the primary is cut off from the other members", cut),
    ];
    figures.extend(without_api(&cluster).await?);
    cluster.settled(3).await?;
    cluster.same_everywhere(&MEMBERS).await?;
    Ok(figures)
}

fn figure(what: &str, gap: Duration) -> ReportedFigure {
    ReportedFigure {
        what: format!(
            "{what}: the longest time between two acknowledged inserts through -rw, each with a new connection"
        ),
        value: format!("{:.1} s", gap.as_secs_f64()),
    }
}

async fn paused(cluster: &KindCluster) -> Result<Duration, E2eFailure> {
    let former = primary(cluster, &MEMBERS).await?;
    let (host, uid) = place(cluster, former).await?;
    let writer =
        LoadWriter::begin(cluster, "paused", Connections::OneEach, std::slice::from_ref(&host))
            .await?;
    let env = [("UID_OF_POD", uid), ("SECONDS_LONG", PAUSED_SECONDS.to_string())];
    let host_job = HostJob::begin(cluster, &host, "pause", PAUSE, &env).await?;
    let paused = time_of(&host_job.ended(TIMEOUT).await?, "paused")?;
    let resumed = paused + 1000 * PAUSED_SECONDS;
    writer.more(10).await?;
    let written = writer.stop().await?;
    let gap = written.gap(paused, resumed);
    ensure!(
        i64::try_from(gap.as_millis()).is_ok_and(|ms| ms < 1000 * PAUSED_SECONDS),
        "writes continued only when the host did: {gap:?}"
    );
    let next = primary(cluster, &MEMBERS).await?;
    all_back(cluster, next, &MEMBERS).await?;
    written.are_on(cluster, next).await?;
    Ok(gap)
}

async fn cut_off(cluster: &KindCluster) -> Result<Duration, E2eFailure> {
    let former = primary(cluster, &MEMBERS).await?;
    let others: Vec<i32> = MEMBERS.into_iter().filter(|id| *id != former).collect();
    let writer = LoadWriter::begin(
        cluster,
        "cut-off",
        Connections::OneEach,
        &[place(cluster, former).await?.0],
    )
    .await?;
    let cut = NetworkCut::between(cluster, &[former], &others).await?;
    let steps = async {
        let next = primary(cluster, &others).await?;
        writer.more(10).await?;
        Ok::<_, E2eFailure>(next)
    }
    .await;
    cut.heal().await?;
    let next = steps?;
    let written = writer.stop().await?;
    all_back(cluster, next, &MEMBERS).await?;
    written.are_on(cluster, next).await?;
    Ok(written.gap(0, i64::MAX))
}

async fn without_api(cluster: &KindCluster) -> Result<Vec<ReportedFigure>, E2eFailure> {
    let former = primary(cluster, &MEMBERS).await?;
    let follower = MEMBERS.into_iter().find(|id| *id != former).unwrap_or_default();
    let control_plane = cluster.control_plane().await?;
    let writer = LoadWriter::begin(
        cluster,
        "without-api",
        Connections::OneEach,
        std::slice::from_ref(&control_plane),
    )
    .await?;
    let password = cluster
        .secrets()
        .get(&format!("{NAME}-superuser"))
        .await?
        .data
        .and_then(|mut d| d.remove("password"));
    let password =
        password.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default();
    let env = [
        ("PRIMARY", former.to_string()),
        ("FOLLOWER", follower.to_string()),
        ("ADDRESSES", addresses(cluster).await?),
        ("PGPASSWORD", password),
    ];
    let host_job =
        HostJob::begin(cluster, &control_plane, "without-api", WITHOUT_API, &env).await?;
    let output = host_job.ended(OUTAGE).await?;
    println!("failover-rw: without the API server: {}", output.trim().replace('\n', ", "));
    let written = writer.stop().await?;
    // The killed server may have restarted in time to be chosen again.
    let next = primary(cluster, &MEMBERS).await?;
    all_back(cluster, next, &MEMBERS).await?;
    written.are_on(cluster, next).await?;
    let at = |word| time_of(&output, word);
    let rejoined =
        Duration::from_millis(u64::try_from(at("rejoined")? - at("ended")?).unwrap_or_default());
    Ok(vec![
        figure(
            "no API server, a follower's container ends",
            written.gap(at("ended")?, at("killed")?),
        ),
        ReportedFigure {
            what: "no API server: a follower whose container ended streams again after".into(),
            value: format!("{:.1} s", rejoined.as_secs_f64()),
        },
        figure(
            "no API server, kill -9 of the primary's postmaster",
            written.gap(at("killed")?, at("done")?),
        ),
    ])
}

async fn addresses(cluster: &KindCluster) -> Result<String, E2eFailure> {
    let pods = cluster.pods().await?;
    let ip = |node: i32| pods.get(&node).and_then(|pod| pod.status.as_ref()?.pod_ip.clone());
    Ok(MEMBERS.into_iter().filter_map(ip).collect::<Vec<_>>().join(" "))
}
