//! Many status calls at a steady rate, as many impatient dashboards make them, and how long answers take.

use std::time::{Duration, Instant};

use medley_proto::v1::GetStatusRequest;
use medley_proto::v1::status_service_client::StatusServiceClient;
use tokio::task::JoinSet;

/// How long things took.
#[derive(Debug)]
pub struct Waits(Vec<Duration>);

impl Waits {
    /// Takes them in any order.
    #[must_use]
    pub fn new(mut waits: Vec<Duration>) -> Self {
        waits.sort_unstable();
        Self(waits)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The wait that this share of them did not exceed, in milliseconds.
    #[must_use]
    pub fn milliseconds(&self, share: f64) -> f64 {
        let last = self.0.len() - 1;
        self.0[(last as f64 * share).round() as usize].as_secs_f64() * 1e3
    }
}

/// What the calls came to.
#[derive(Debug)]
pub struct Load {
    /// Calls a second that were made.
    pub rate: f64,
    /// How long each took from when it was due.
    pub answers: Waits,
}

/// Makes `calls` calls of `GetStatus`, `rate` a second, whether or not those before are answered: a slow answer delays
/// no other call, and a call that starts late counts from when it was due.
pub async fn status(address: &str, rate: u32, calls: u32) -> Load {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let client = StatusServiceClient::new(endpoint.connect().await.expect("connect to the coordinator"));
    let (start, every) = (Instant::now(), Duration::from_secs(1) / rate);
    let mut answers = JoinSet::new();
    for call in 0..calls {
        let due = start + every * call;
        tokio::time::sleep_until(due.into()).await;
        let mut client = client.clone();
        answers.spawn(async move {
            let answer = client.get_status(GetStatusRequest {}).await.expect("an answer").into_inner();
            assert!(answer.status.is_some(), "an answer without a status");
            due.elapsed()
        });
    }
    let waits = answers.join_all().await;
    Load { rate: f64::from(calls) / start.elapsed().as_secs_f64(), answers: Waits::new(waits) }
}
