//! Asks a coordinator for its status many times a second, and prints how long the answers took, as JSON:
//! `status_load ADDRESS CALLS_A_SECOND CALLS`.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

use medley_tests::load;

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, rate, calls] = &words[..] else { panic!("expected ADDRESS CALLS_A_SECOND CALLS, found {words:?}") };
    let (rate, calls) = (rate.parse().expect("calls a second"), calls.parse().expect("a number of calls"));
    let load = load::status(address, rate, calls).await;
    println!(
        "{{\"calls\": {calls}, \"calls_per_second\": {:.1}, \"p50_ms\": {:.3}, \"p99_ms\": {:.3}, \"max_ms\": {:.3}}}",
        load.rate,
        load.answers.milliseconds(0.5),
        load.answers.milliseconds(0.99),
        load.answers.milliseconds(1.0),
    );
}
