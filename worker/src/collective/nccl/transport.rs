//! NCCL as what moves elements between devices, without adding any.

use super::communicator::Message;
use super::{Memory, Nccl, cuda_failed};
use crate::collective::transport::{Received, Sent, Transport};
use crate::collective::{Collective, CollectiveError, device_failed};
use crate::ops::Slice;

impl Transport<Memory> for Nccl {
    fn describe(&self) -> Option<String> {
        Some(format!("{}; sums lane by lane", self.topology))
    }

    fn follow(&mut self) -> Result<(), CollectiveError> {
        self.follow_computing()
    }

    fn exchange(
        &mut self,
        sent: &[Sent<'_, Memory>],
        into: &mut [Memory],
        received: &[Received],
    ) -> Result<(), CollectiveError> {
        let message = |peer: usize, elements: &Slice<'_, Memory>| {
            let address = self.cuda.address_of(elements).map_err(device_failed)?;
            Ok::<_, CollectiveError>(Message { peer, address, count: elements.range.len() })
        };
        let sent = sent.iter().map(|Sent { to, elements }| message(*to, elements));
        let sent = sent.collect::<Result<Vec<_>, _>>()?;
        let place = |Received { buffer, range, .. }: &Received| Slice { buffer: &into[*buffer], range: range.clone() };
        let received = received.iter().map(|received| message(received.from, &place(received)));
        let received = received.collect::<Result<Vec<_>, _>>()?;
        // SAFETY: what is sent and what is written to is kept until the fence, which the computing stream waits for before
        // it frees anything; chunks are freed in the order of this stream.
        unsafe { self.communicator.exchange(&sent, &received, &self.stream) }
    }

    fn announce(&mut self, rows: Vec<u32>) -> Result<(), CollectiveError> {
        self.follow_computing()?;
        self.mesh.launch_rows(rows)
    }

    fn announced(&mut self) -> Result<Vec<u32>, CollectiveError> {
        let summed = self.mesh.fence().inspect_err(|_| self.communicator.abort())?;
        // Open until every rank has its sums.
        self.mesh.launch_words(Vec::new())?;
        Ok(summed.words.rows)
    }

    fn finish(&mut self) -> Result<(), CollectiveError> {
        self.finish_sums()
    }

    fn abandon(&mut self) -> bool {
        self.is_open = false;
        self.end().map_err(cuda_failed).is_ok()
    }
}
