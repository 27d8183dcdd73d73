//! `medley`: the coordinator's command line.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use medley_common::identity::Update;
use medley_common::message::FailureKind;
use medley_common::secret::Secret;
use medley_coordinator::archive::{LEDGER_FILE, REPORT_FILE};
use medley_coordinator::assembly::Request;
use medley_coordinator::cli::{self, Cli, Compare, Evaluate, Plan, Predict, Replay, Report, Sweep, Verify};
use medley_coordinator::client::ClientError;
use medley_coordinator::display::{Display, Event, say};
use medley_coordinator::forecast::Forecast;
use medley_coordinator::model_card::Written;
use medley_coordinator::run::report::Outcome;
use medley_coordinator::spec::RunSpec;
use medley_coordinator::stop_requests::StopRequests;
use medley_coordinator::summary::Summary;
use medley_coordinator::{
    compare, conversion, coordinate, model_card, orders_client, predict as prediction, quickstart, replay, report_page,
    status_client, sweep, text_table, verify,
};
use tokio::signal::unix::SignalKind;

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
    // Its handler stays for the life of the process: with it, a file that reaches the limit of `ulimit -f` is an error
    // of the write that has a name, not the end of the process. The workers start with the default again.
    let limit = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))
    };
    if let Err(error) = limit {
        return fail(70, &error);
    }
    let command: Vec<String> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let code = match parsed {
        Cli::Train(spec) | Cli::Serve(spec) => runtime.block_on(train(*spec, command)),
        Cli::Plan(asked) => runtime.block_on(plan(*asked)),
        Cli::Predict(asked) => runtime.block_on(predict(*asked)),
        Cli::Evaluate(asked) => runtime.block_on(evaluate(*asked)),
        Cli::Status(status) => answered(runtime.block_on(status_client::show(&status))),
        Cli::Stop(asked) => answered(runtime.block_on(orders_client::stop(&asked))),
        Cli::Checkpoint(asked) => answered(runtime.block_on(orders_client::checkpoint(&asked))),
        Cli::Drain(asked) => answered(runtime.block_on(orders_client::drain(&asked))),
        Cli::Checkpoints(asked) => answered(runtime.block_on(orders_client::checkpoints(&asked))),
        Cli::Verify(asked) => prove(&asked),
        Cli::Report(asked) => draw(&asked),
        Cli::Compare(asked) => compare(&asked),
        Cli::Replay(asked) => runtime.block_on(replay(&asked)),
        Cli::Sweep(asked) => runtime.block_on(sweep(asked)),
        Cli::InitCerts(asked) => asked.make().map_or_else(|error| fail(78, &error), |text| said(&text)),
        Cli::Convert(asked) => match conversion::convert(&asked) {
            Ok(said) => {
                said.iter().for_each(|line| say(line));
                ExitCode::SUCCESS
            }
            Err(error) => fail(error.exit_code(), &error),
        },
        Cli::Completions(asked) => written(asked.write(&mut std::io::stdout().lock())),
        Cli::Man(asked) => written(asked.write(&mut std::io::stdout().lock())),
        Cli::Quickstart(arguments) => match quickstart::prepare(&arguments) {
            Ok(_) if arguments.prepare_only => ExitCode::SUCCESS,
            Ok(spec) => {
                let code = runtime.block_on(train(spec, quickstart::command(&arguments)));
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

/// What the answer of somebody else's coordinator is to a shell.
fn answered(answer: Result<(), ClientError>) -> ExitCode {
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.exit_code(), &error),
    }
}

/// Says what was done.
fn said(text: &str) -> ExitCode {
    say(text);
    ExitCode::SUCCESS
}

/// What was written for a shell or a reader; a reader that has gone away (`| head`) has what it wanted.
fn written(result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(78, &error),
    }
}

/// Makes updates of a run again; 65 where they differ.
async fn replay(asked: &Replay) -> ExitCode {
    let rerun = match replay::prepare(asked) {
        Ok(rerun) => rerun,
        Err(error) => return fail(65, &error),
    };
    say(&rerun.to_string());
    let display = Display::new(rerun.spec.output().console, rerun.spec.output().progress);
    match run(rerun.spec.clone(), rerun.command.clone(), (Some(rerun.through), display)).await {
        Ok(Outcome::Completed | Outcome::Stopped { .. }) => {}
        Ok(Outcome::Failed(failure)) => return fail(exit_code(failure.kind), &failure),
        Err(error) => return fail(70, &error),
    }
    match rerun.compare() {
        Ok(comparison) => {
            say(&comparison.to_string());
            if comparison.is_equal() { ExitCode::SUCCESS } else { ExitCode::from(65) }
        }
        Err(error) => fail(70, &error),
    }
}

/// Makes the runs of a sweep, one after the other; a stop ends it, and its command goes on with it.
async fn sweep(asked: Sweep) -> ExitCode {
    let failed = |error: &sweep::SweepError| fail(error.exit_code(), error);
    // From the first run to the last: a stop between two of them is one as well.
    let mut stops = match StopRequests::listen() {
        Ok(stops) => stops,
        Err(error) => return fail(70, &error),
    };
    let mut sweeping = match sweep::Sweeping::begin(asked) {
        Ok(sweeping) => sweeping,
        Err(error) => return failed(&error),
    };
    loop {
        let trial = match sweeping.next_trial() {
            Ok(Some(trial)) => trial,
            Ok(None) => break,
            Err(error) => return failed(&error),
        };
        if stops.is_asked() {
            return stopped_sweep();
        }
        let (spec, command) = (trial.spec.clone(), trial.command.clone());
        let display = Display::new(spec.output().console, spec.output().progress);
        display.line(&trial.title);
        let diverged = match run_until(&mut stops, spec, command, (None, display.clone())).await {
            Ok(Outcome::Completed) => {
                conclude(&trial.spec, &display);
                false
            }
            Ok(Outcome::Failed(failure)) if failure.kind == FailureKind::Diverged => {
                display.show(&Event::Warning(&failure.to_string()));
                true
            }
            Ok(Outcome::Failed(failure)) => return fail(exit_code(failure.kind), &failure),
            Ok(Outcome::Stopped { .. }) => return stopped_sweep(),
            Err(error) => return fail(70, &error),
        };
        match sweeping.note(&trial, diverged) {
            Ok(line) => display.line(&format!("{}: {line}", trial.title)),
            Err(error) => return failed(&error),
        }
    }
    written(writeln!(std::io::stdout(), "{}", sweeping.conclusion()))
}

fn stopped_sweep() -> ExitCode {
    say("stopped: the same command goes on with the runs that are left");
    ExitCode::from(75)
}

/// Runs what is asked for, through `until` where that comes first, and tells of it on `display`.
async fn run(spec: RunSpec, command: Vec<String>, told: (Option<Update>, Display)) -> std::io::Result<Outcome> {
    run_until(&mut StopRequests::listen()?, spec, command, told).await
}

/// The same, where whoever asks for a stop is known already.
async fn run_until(
    stops: &mut StopRequests,
    spec: RunSpec,
    command: Vec<String>,
    (until, display): (Option<Update>, Display),
) -> std::io::Result<Outcome> {
    let (secret, folder) = (secret()?, std::env::current_dir()?);
    Ok(coordinate::run(Request { spec, command, folder, until, secret, display }, stops).await)
}

/// Draws a complete run, and writes the card of its model.
fn conclude(spec: &RunSpec, display: &Display) {
    let dir = &spec.output().dir;
    // A run that only evaluates has no ledger, and nothing to draw.
    if dir.join(LEDGER_FILE).exists() {
        display.line(&match report_page::conclude(dir, spec.output().report_examples) {
            Ok(path) => format!("pictures of the run are in {}", path.display()),
            Err(report_page::DrawError::Examples(error)) => {
                let path = dir.join(REPORT_FILE);
                format!("warning: the pictures in {} are without examples: {error}", path.display())
            }
            Err(error) => format!("warning: no pictures of the run are drawn: {error}"),
        });
    }
    match model_card::conclude(spec) {
        Ok(Written::Here(path)) => display.line(&format!("the model's card is {}", path.display())),
        Ok(Written::LeftAlone(path)) => {
            let line = format!("note: {} is not Medley's, or was changed, and stays as it is", path.display());
            display.line(&line);
        }
        Ok(Written::Nothing) => {}
        Err(error) => display.line(&format!("warning: no card of the model is written: {error}")),
    }
}

async fn train(spec: RunSpec, command: Vec<String>) -> ExitCode {
    let dir = spec.output().dir.clone();
    let display = Display::new(spec.output().console, spec.output().progress);
    let outcome = match run(spec.clone(), command, (None, display.clone())).await {
        Ok(outcome) => outcome,
        Err(error) => return fail(70, &error),
    };
    match outcome {
        Outcome::Completed => {
            conclude(&spec, &display);
            Summary::read(&spec).into_iter().for_each(|summary| display.show(&Event::Summary(&summary)));
            display.show(&Event::Completed(&dir));
            ExitCode::SUCCESS
        }
        Outcome::Stopped { update, saved } => {
            display.show(&Event::Stopped(update, saved));
            ExitCode::from(75)
        }
        Outcome::Failed(failure) => {
            display.show(&Event::Failed(&failure));
            ExitCode::from(exit_code(failure.kind))
        }
    }
}

/// Shows what a run comes to.
async fn plan(asked: Plan) -> ExitCode {
    let json = asked.json;
    let forecast = match Forecast::of(asked).await {
        Ok(forecast) => forecast,
        Err(failure) => return fail(exit_code(failure.kind), &failure),
    };
    let text =
        if json { serde_json::to_string_pretty(&forecast) } else { Ok(forecast.to_string().trim_end().to_owned()) };
    written(text.map_err(std::io::Error::from).and_then(|text| writeln!(std::io::stdout(), "{text}")))
}

/// Has a trained model predict rows.
async fn predict(asked: Predict) -> ExitCode {
    match secret().and_then(|secret| Ok((secret, StopRequests::listen()?))) {
        Ok((secret, mut stops)) => answered_with(&prediction::predict(asked, secret, &mut stops).await),
        Err(error) => fail(70, &error),
    }
}

/// Has a trained model predict labelled rows, and prints what that comes to.
async fn evaluate(asked: Evaluate) -> ExitCode {
    let json = asked.json;
    let (outcome, table) = match secret().and_then(|secret| Ok((secret, StopRequests::listen()?))) {
        Ok((secret, mut stops)) => prediction::evaluate(asked, secret, &mut stops).await,
        Err(error) => return fail(70, &error),
    };
    let Some(table) = table else { return answered_with(&outcome) };
    let text = if json { table.to_json() } else { table.to_string() };
    written(writeln!(std::io::stdout(), "{text}"))
}

/// What the end of a stream is to a shell. Rows that were answered are answered.
fn answered_with(outcome: &Outcome) -> ExitCode {
    match outcome {
        Outcome::Completed => ExitCode::SUCCESS,
        Outcome::Stopped { .. } => {
            say("stopped");
            ExitCode::from(75)
        }
        Outcome::Failed(failure) => fail(exit_code(failure.kind), failure),
    }
}

fn exit_code(kind: FailureKind) -> u8 {
    match kind {
        FailureKind::Data => 65,
        FailureKind::Config => 78,
        FailureKind::Lost | FailureKind::Internal | FailureKind::Diverged => 70,
    }
}

/// Verifies a run; 65 where something is wrong with it.
fn prove(asked: &Verify) -> ExitCode {
    if let Err(error) = sweep::refuse_sweep(&asked.run) {
        return fail(65, &error);
    }
    let verdict = match verify::verify(&asked.run) {
        Ok(verdict) => verdict,
        Err(error) => return fail(65, &error),
    };
    let text = if asked.json { serde_json::to_string_pretty(&verdict) } else { Ok(verdict.to_string()) };
    match text.map_err(std::io::Error::from).and_then(|text| writeln!(std::io::stdout(), "{text}")) {
        Ok(()) if verdict.holds() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(65),
        Err(error) => fail(70, &error),
    }
}

/// Draws a run; 65 where it cannot be read, or is not as its ledger says.
fn draw(asked: &Report) -> ExitCode {
    if let Err(error) = sweep::refuse_sweep(&asked.run) {
        return fail(65, &error);
    }
    match report_page::draw(&asked.run, &asked.output, asked.examples) {
        Ok(holds) => drawn(&asked.output, holds),
        Err(error) => fail(65, &error),
    }
}

/// Lays runs side by side; 65 where one cannot be read, or is not as its ledger says.
fn compare(asked: &Compare) -> ExitCode {
    if let Err(error) = asked.runs.iter().try_for_each(|run| sweep::refuse_sweep(run)) {
        return fail(65, &error);
    }
    let comparison = match compare::compare(&asked.runs, &asked.output) {
        Ok(comparison) => comparison,
        Err(error) => return fail(error.exit_code(), &error),
    };
    let text = if asked.json {
        serde_json::to_string_pretty(&comparison)
    } else {
        Ok(comparison.text(text_table::width_of_stdout()))
    };
    match written(text.map_err(std::io::Error::from).and_then(|text| writeln!(std::io::stdout(), "{text}"))) {
        ExitCode::SUCCESS => drawn(&asked.output, comparison.holds()),
        failed => failed,
    }
}

/// Says where a page is, and whether it shows what its runs' ledgers say.
fn drawn(path: &Path, holds: bool) -> ExitCode {
    let page = format!("the page is {}", path.display());
    if holds {
        say(&page);
        return ExitCode::SUCCESS;
    }
    say(&format!("{page}; not all is as the ledger says: see there, or medley verify"));
    ExitCode::from(65)
}

/// What the workers of a run share, from the kernel's random source.
fn secret() -> std::io::Result<Secret> {
    use std::io::Read;
    let mut secret = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
    Ok(Secret(secret))
}

fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    say(&format!("medley: {error}"));
    ExitCode::from(code)
}
