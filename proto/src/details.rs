//! What a refused call is told beside code and words, for programs: `google.rpc.Status` with an `ErrorInfo`, as every
//! gRPC library can read it.

use std::collections::BTreeMap;

use prost::Message;
use tonic::{Code, Status};

/// Who speaks, in every `ErrorInfo`.
const DOMAIN: &str = "medley";

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// Why a worker cannot have a session yet: others have all there are.
pub const TOO_MANY_SESSIONS: &str = "TOO_MANY_SESSIONS";

/// A refusal in words, with a `reason` such as `TOKEN_MISSING` and one named value for programs.
#[must_use]
pub fn refusal(code: Code, message: String, reason: &str, (name, value): (&str, &str)) -> Status {
    let metadata = BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let info = ErrorInfo { reason: reason.to_owned(), domain: DOMAIN.to_owned(), metadata };
    let any = Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(), value: info.encode_to_vec() };
    let status = RpcStatus { code: code.into(), message: message.clone(), details: vec![any] };
    Status::with_details(code, message, status.encode_to_vec().into())
}

/// The reason that a refusal names; `None` where it names none.
#[must_use]
pub fn reason(status: &Status) -> Option<String> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let info = details.iter().find(|any| any.type_url.ends_with("/google.rpc.ErrorInfo"))?;
    ErrorInfo::decode(info.value.as_slice()).ok().map(|info| info.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_the_same_to_people_and_to_programs() {
        let status = refusal(Code::NotFound, "there is no worker 7".to_owned(), "NO_SUCH_WORKER", ("worker", "7"));
        assert_eq!((status.code(), status.message()), (Code::NotFound, "there is no worker 7"));
        assert_eq!(reason(&status).as_deref(), Some("NO_SUCH_WORKER"));
        assert_eq!(reason(&Status::not_found("nothing more")), None);
        assert_eq!(reason(&Status::with_details(Code::Internal, "", vec![0xff; 9].into())), None);
    }
}
