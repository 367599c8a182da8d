//! `pgraft-operator run`, the operator itself, and `pgraft-operator crd`, which prints what it
//! understands.

use clap::Parser;
use pgraft_operator::cli::{OperatorCli, OperatorCommand};
use pgraft_operator::{run, telemetry};
use std::error::Error;
use std::io::Write;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cli = OperatorCli::parse();
    match cli.verb.unwrap_or(OperatorCommand::Run) {
        OperatorCommand::Crd => {
            Ok(std::io::stdout().write_all(pgraft_api::cluster::crd_yaml()?.as_bytes())?)
        }
        OperatorCommand::Run => {
            telemetry::start(&cli.run.log_level, cli.run.log_format);
            Ok(run::run(cli.run.settings()).await?)
        }
    }
}
