//! `medley`: the coordinator's command line.

use std::process::ExitCode;

use medley_common::message::FailureKind;
use medley_coordinator::assembly::Request;
use medley_coordinator::cli::{self, Cli};
use medley_coordinator::display::say;
use medley_coordinator::run::report::Outcome;
use medley_coordinator::spec::RunSpec;
use medley_coordinator::{coordinate, quickstart, status_client};

/// Exit codes: 0 done, 64 usage, 65 data, 70 internal or lost, 75 stopped: run the same command again, 78 settings.
fn main() -> ExitCode {
    let command: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let parsed = match cli::parse(&command) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Nothing is left to do where even standard error is closed.
            error.print().ok();
            return ExitCode::from(error.exit_code());
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(70, &error),
    };
    let command = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let code = match parsed {
        Cli::Train(spec) | Cli::Serve(spec) => runtime.block_on(train(*spec, command)),
        Cli::Status(status) => match runtime.block_on(status_client::show(&status)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(70, &error),
        },
        Cli::Quickstart(arguments) => match quickstart::prepare(&arguments) {
            Ok(spec) => {
                let code = runtime.block_on(train(spec, command));
                if code == ExitCode::SUCCESS {
                    say(&quickstart::farewell(&arguments));
                }
                code
            }
            Err(error) => fail(error.exit_code(), &error),
        },
    };
    // Tasks that are still running serve nobody any more.
    runtime.shutdown_background();
    code
}

async fn train(spec: RunSpec, command: Vec<String>) -> ExitCode {
    let dir = spec.output().dir.clone();
    let secret = match secret() {
        Ok(secret) => secret,
        Err(error) => return fail(70, &error),
    };
    match coordinate::run(Request { spec, command, secret }).await {
        Outcome::Completed => {
            say(&format!("done: the results are in {}", dir.display()));
            ExitCode::SUCCESS
        }
        Outcome::Stopped { update, saved } => {
            say(&match saved {
                Some(saved) if saved == update => {
                    format!("stopped after update {update}, which is saved: the same command goes on from there")
                }
                Some(saved) => format!(
                    "stopped at once after update {update}: the same command goes on from the checkpoint of update {saved}"
                ),
                None if update.0 > 0 => format!("stopped at once after update {update}: nothing of it is saved"),
                None => "stopped; nothing was trained yet".to_owned(),
            });
            ExitCode::from(75)
        }
        Outcome::Failed(failure) => {
            let code = match failure.kind {
                FailureKind::Data => 65,
                FailureKind::Config => 78,
                FailureKind::Lost | FailureKind::Internal | FailureKind::Diverged => 70,
            };
            fail(code, &failure)
        }
    }
}

/// What the workers of a run share, from the kernel's random source.
fn secret() -> std::io::Result<[u8; 32]> {
    use std::io::Read;
    let mut secret = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
    Ok(secret)
}

fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    say(&format!("medley: {error}"));
    ExitCode::from(code)
}
