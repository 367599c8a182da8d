//! `pgraft-instance`: the command line, and what the shell sees of an error. Everything else is the
//! library's.

use clap::Parser;
use pgraft_instance::cli::{InstanceCli, InstanceCommand};
use pgraft_instance::{logging, run};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let InstanceCli { verb: InstanceCommand::Run(args) } = InstanceCli::parse();
    let sink = logging::Sink::start(std::io::stdout());
    logging::install(sink.clone());
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("pgraft-instance: {error}");
                return ExitCode::FAILURE;
            }
        };
    let result = runtime.block_on(run(args, sink.clone()));
    runtime.shutdown_timeout(Duration::from_secs(1));
    sink.flush(Duration::from_secs(5));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pgraft-instance: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
