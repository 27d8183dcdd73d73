//! A PyTorch state dict: from the inert values of its pickle to tensors in storages.

use std::collections::BTreeSet;

use super::pickle::{Id, Pickle, Value};
use super::stored::{Element, Strided};

/// A storage as a pickle refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StorageReference<'a> {
    pub key: &'a str,
    pub element: Element,
    /// Elements of the whole storage.
    pub elements: usize,
    /// The part that is meant, where it is not the whole: first element and number of elements.
    pub view: Option<(usize, usize)>,
}

impl StorageReference<'_> {
    /// The bytes of `whole` that are meant; `None` where the reference reaches beyond.
    pub(super) fn part<'b>(&self, whole: &'b [u8]) -> Option<&'b [u8]> {
        let (start, elements) = self.view.unwrap_or((0, self.elements));
        let start = start.checked_mul(self.element.bytes())?;
        whole.get(start..start.checked_add(elements.checked_mul(self.element.bytes())?)?)
    }
}

/// A tensor of a state dict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub name: &'a str,
    pub storage: StorageReference<'a>,
    pub place: Strided,
}

/// The tensors of a state dict, and the names of what else it holds.
pub(super) fn records<'a>(pickle: &Pickle<'a>) -> Result<(Vec<Record<'a>>, Vec<String>), String> {
    let Value::Dict(entries) = pickle.root() else {
        return Err("holds no state dict: save `model.state_dict()`, not the model".to_owned());
    };
    let (mut tensors, mut others) = (Vec::new(), Vec::new());
    for (key, value) in entries {
        let Value::Text(name) = pickle.get(*key) else {
            return Err("holds no state dict: a key is not text".to_owned());
        };
        match tensor_arguments(pickle, *value) {
            Some(arguments) => {
                let (storage, place) = tensor(pickle, arguments).ok_or_else(|| {
                    format!("{name}: the pickle describes its tensor in a way that is not understood")
                })?;
                tensors.push(Record { name, storage, place });
            }
            None => others.push((*name).to_owned()),
        }
    }
    Ok((tensors, others))
}

/// What a pickle names that no tensor is made of, as `module.name`, each once and in the order of the alphabet.
pub(super) fn foreign(pickle: &Pickle<'_>) -> Vec<String> {
    let names = pickle.values().iter().filter_map(|value| match value {
        Value::Global { module, name } if !is_of_tensors(module, name) => Some(format!("{module}.{name}")),
        _ => None,
    });
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

fn is_of_tensors(module: &str, name: &str) -> bool {
    match module {
        "collections" => name == "OrderedDict",
        "torch" => element(name).is_some(),
        "torch._utils" => matches!(name, "_rebuild_tensor_v2" | "_rebuild_tensor" | "_rebuild_parameter"),
        "torch._tensor" => name == "_rebuild_from_type_v2",
        "torch.nn.parameter" => name == "Parameter",
        _ => false,
    }
}

/// The storage that a persistent id means: `("storage", class, key, location, elements[, view])`.
pub(super) fn storage<'a>(pickle: &Pickle<'a>, id: Id) -> Option<StorageReference<'a>> {
    let Value::Tuple(parts) = pickle.get(id) else { return None };
    let (Some(Value::Text("storage")), Some(Value::Global { name: class, .. }), Some(Value::Text(key))) =
        (at(pickle, parts, 0), at(pickle, parts, 1), at(pickle, parts, 2))
    else {
        return None;
    };
    // (key of the view, first element, elements): how the stream format writes part of a storage.
    let view = match at(pickle, parts, 5) {
        Some(Value::Tuple(view)) => Some((size(pickle, view, 1)?, size(pickle, view, 2)?)),
        _ => None,
    };
    Some(StorageReference { key, element: element(class)?, elements: size(pickle, parts, 4)?, view })
}

/// The arguments of `_rebuild_tensor` in whatever the tensor is wrapped in; `None` for what is no tensor.
fn tensor_arguments(pickle: &Pickle<'_>, id: Id) -> Option<Id> {
    let Value::Call { mut function, mut arguments } = *pickle.get(id) else { return None };
    // A parameter of a tensor subclass is wrapped twice; a pickle may be a circle.
    for _ in 0..4 {
        let Value::Global { module, name } = pickle.get(function) else { return None };
        let Value::Tuple(parts) = pickle.get(arguments) else { return None };
        match (*module, *name) {
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => return Some(arguments),
            ("torch._utils", "_rebuild_parameter") => {
                (function, arguments) = match pickle.get(*parts.first()?) {
                    Value::Call { function, arguments } => (*function, *arguments),
                    _ => return None,
                };
            }
            ("torch._tensor", "_rebuild_from_type_v2") => {
                (function, arguments) = (*parts.first()?, *parts.get(2)?);
            }
            _ => return None,
        }
    }
    None
}

/// `(storage, offset, size, stride, ...)`, the arguments of `torch._utils._rebuild_tensor_v2`.
fn tensor<'a>(pickle: &Pickle<'a>, arguments: Id) -> Option<(StorageReference<'a>, Strided)> {
    let Value::Tuple(parts) = pickle.get(arguments) else { return None };
    let Value::Persistent(id) = at(pickle, parts, 0)? else { return None };
    let sizes = |index: usize| match at(pickle, parts, index) {
        Some(Value::Tuple(sizes)) => (0..sizes.len()).map(|dimension| size(pickle, sizes, dimension)).collect(),
        _ => None,
    };
    let place = Strided { offset: size(pickle, parts, 1)?, shape: sizes(2)?, strides: sizes(3)? };
    Some((storage(pickle, *id)?, place))
}

fn element(class: &str) -> Option<Element> {
    Some(match class {
        "FloatStorage" => Element::F32,
        "DoubleStorage" => Element::F64,
        "HalfStorage" => Element::F16,
        "BFloat16Storage" => Element::Bf16,
        "LongStorage" => Element::I64,
        "IntStorage" => Element::I32,
        "ShortStorage" => Element::I16,
        "CharStorage" => Element::I8,
        "ByteStorage" => Element::U8,
        "BoolStorage" => Element::Bool,
        _ => return None,
    })
}

fn at<'p, 'a>(pickle: &'p Pickle<'a>, parts: &[Id], index: usize) -> Option<&'p Value<'a>> {
    parts.get(index).map(|id| pickle.get(*id))
}

fn size(pickle: &Pickle<'_>, parts: &[Id], index: usize) -> Option<usize> {
    match at(pickle, parts, index)? {
        Value::Int(value) => usize::try_from(*value).ok(),
        _ => None,
    }
}
