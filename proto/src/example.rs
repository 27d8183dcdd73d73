//! Examples on the wire.

use medley_common::example::Example;

use crate::v1;
use crate::wire::WireError;

impl From<&Example> for v1::Example {
    fn from(example: &Example) -> Self {
        Self { tokens: example.tokens.clone(), first_segment: example.first_segment, label: example.label }
    }
}

impl TryFrom<v1::Example> for Example {
    type Error = WireError;

    fn try_from(example: v1::Example) -> Result<Self, WireError> {
        let tokens = example.tokens.len();
        if tokens == 0 || example.first_segment as usize > tokens {
            let problem = format!("{} of {tokens} tokens", example.first_segment);
            return Err(WireError::Value { field: "example.first_segment", problem });
        }
        Ok(Self { tokens: example.tokens, first_segment: example.first_segment, label: example.label })
    }
}
