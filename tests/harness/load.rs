//! Many status calls at a steady rate, as many impatient dashboards make them.

use std::time::{Duration, Instant};

use medley_proto::v1::GetStatusRequest;
use medley_proto::v1::status_service_client::StatusServiceClient;
use tokio::task::JoinSet;

/// What the calls came to.
#[derive(Debug)]
pub struct Load {
    /// Calls a second that were made.
    pub rate: f64,
    /// How long each took from when it was due, in order.
    waits: Vec<Duration>,
}

impl Load {
    /// The wait that this share of the calls did not exceed, in milliseconds.
    #[must_use]
    pub fn milliseconds(&self, share: f64) -> f64 {
        let last = self.waits.len() - 1;
        self.waits[(last as f64 * share).round() as usize].as_secs_f64() * 1e3
    }
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
    let mut waits = answers.join_all().await;
    let rate = f64::from(calls) / start.elapsed().as_secs_f64();
    waits.sort_unstable();
    Load { rate, waits }
}
