//! One JSON line, parsed so that a wrong value is named by its kind and never quoted.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A line's JSON value, as far as it matters here.
pub(super) enum Line {
    Object(RawRow),
    Other(&'static str),
}

#[derive(Default)]
pub(super) struct RawRow {
    pub sentence1: Option<Field>,
    pub sentence2: Option<Field>,
    pub gold_label: Option<Field>,
    pub pair_id: Option<Field>,
}

/// A string, or the kind of another value.
pub(super) enum Field {
    Text(String),
    Other(&'static str),
}

macro_rules! kinds {
    ($other:path) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON value")
        }
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($other("a boolean"))
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($other("a number"))
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($other("a number"))
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($other("a number"))
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($other("null"))
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            Ok($other("an array"))
        }
    };
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LineVisitor;
        impl<'de> Visitor<'de> for LineVisitor {
            type Value = Line;
            kinds!(Line::Other);
            fn visit_str<E>(self, _: &str) -> Result<Line, E> {
                Ok(Line::Other("a string"))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Line, A::Error> {
                let mut row = RawRow::default();
                while let Some(name) = fields.next_key::<String>()? {
                    match name.as_str() {
                        "sentence1" => row.sentence1 = Some(fields.next_value()?),
                        "sentence2" => row.sentence2 = Some(fields.next_value()?),
                        "gold_label" => row.gold_label = Some(fields.next_value()?),
                        "pairID" => row.pair_id = Some(fields.next_value()?),
                        _ => {
                            fields.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(Line::Object(row))
            }
        }
        deserializer.deserialize_any(LineVisitor)
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldVisitor;
        impl<'de> Visitor<'de> for FieldVisitor {
            type Value = Field;
            kinds!(Field::Other);
            fn visit_str<E>(self, text: &str) -> Result<Field, E> {
                Ok(Field::Text(text.to_owned()))
            }
            fn visit_string<E>(self, text: String) -> Result<Field, E> {
                Ok(Field::Text(text))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Field, A::Error> {
                while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Field::Other("an object"))
            }
        }
        deserializer.deserialize_any(FieldVisitor)
    }
}
