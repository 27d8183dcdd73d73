//! Whatever bytes arrive as a message: it is converted or refused, and never larger than its bytes allow.

use medley_common::message::{Command, Event};
use proptest::prelude::*;
use prost::Message;

use crate::v1;

/// Messages of all kinds, as they are on the wire, with fields that a conversion looks into.
fn valid() -> Vec<Vec<u8>> {
    use v1::session_request::Event as E;
    let runs = vec![v1::Range { start: 0, end: 3 }, v1::Range { start: 5, end: 8 }];
    let kept = Some(v1::LaneSet { runs });
    let updated = v1::Updated {
        generation: 1,
        update: 7,
        learning_rate: 1e-3,
        lanes: vec![v1::LaneReport { lane: 1, rows: vec![1, 2, 3] }],
        losses: vec![0.5; 8],
        parameters: Some(vec![1; 32]),
        ..Default::default()
    };
    let held = v1::Held {
        layout: vec![2; 32],
        copy: Some(v1::SaveId { generation: 1, update: 7 }),
        kept: kept.clone(),
        reports: vec![updated.clone()],
        ..Default::default()
    };
    let predictions = vec![v1::Prediction { row: 1, logits: vec![0.5; 3], loss: Some(1.0) }];
    let known = Some(v1::Known { run: vec![1; 32], names: vec![3, 7] });
    let (version, program) = ("0.1.0".to_owned(), vec![4; 32]);
    let hello = v1::Hello { version, program, known, held: Some(held), ..Default::default() };
    let events = [
        E::Hello(hello),
        E::Updated(updated),
        E::Token(v1::Token { generation: 1, token: vec![5; 128] }),
        E::StandingBy(v1::StandingBy { kept, ..Default::default() }),
        E::Predicted(v1::Predicted { split: 2, predictions, ..Default::default() }),
        E::Failed(v1::Failed { kind: 1, message: "no".to_owned() }),
    ];
    events.map(|event| v1::SessionRequest { event: Some(event), memory: None }.encode_to_vec()).into()
}

/// Takes the bytes for every message that either side converts.
fn convert(bytes: &[u8]) {
    if let Ok(message) = v1::SessionRequest::decode(bytes) {
        assert!(message.encoded_len() <= 4 * bytes.len() + 64, "a message grows in being read");
        Event::try_from(message).ok();
    }
    if let Ok(message) = v1::SessionResponse::decode(bytes) {
        Command::try_from(message).ok();
    }
    if let Ok(message) = v1::FetchExamplesResponse::decode(bytes) {
        for example in message.examples {
            medley_common::example::Example::try_from(example).ok();
        }
    }
    let refusal = tonic::Status::with_details(tonic::Code::Internal, "", bytes.to_vec().into());
    assert!(crate::details::reason(&refusal).is_none_or(|reason| reason.len() <= bytes.len()));
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        convert(&bytes);
    }

    #[test]
    fn messages_with_a_few_bytes_changed(
        which in 0usize..6, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = valid().swap_remove(which);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        convert(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        convert(&bytes);
    }
}

#[test]
fn what_is_valid_is_converted() {
    for bytes in valid() {
        Event::try_from(v1::SessionRequest::decode(bytes.as_slice()).unwrap()).unwrap();
    }
}
