//! `medley convert`: the same tensors in another format, and nothing lost on the way.

use std::path::Path;

use medley_tests::Scratch;

use crate::RECIPE;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

/// A scratch folder with `pickled/`, the tiny model with its weights as this file of the fixtures.
fn pickled(weights: &str) -> Scratch {
    let scratch = Scratch::new(20);
    std::fs::create_dir(scratch.path("pickled")).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"] {
        std::fs::copy(scratch.path("model").join(name), scratch.path("pickled").join(name)).unwrap();
    }
    std::fs::copy(Path::new(FIXTURES).join(weights), scratch.path("pickled/pytorch_model.bin")).unwrap();
    scratch
}

fn names(scratch: &Scratch, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(scratch.path(folder)).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Trained from either, a run has the same bytes.
#[test]
fn a_converted_model_is_the_same_model() {
    for weights in ["tiny-bert/legacy_pytorch_model.bin", "tiny-bert/model/pytorch_model.bin"] {
        let scratch = pickled(weights);
        scratch.run("convert pickled converted").expect(0).says(&["the weights are in converted/model.safetensors"]);
        let expected = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"];
        assert_eq!(names(&scratch, "converted"), expected, "nothing is left beside them");
        for text in ["config.json", "vocab.txt"] {
            let [from, to] = ["pickled", "converted"].map(|folder| scratch.sha256(&format!("{folder}/{text}")));
            assert_eq!(from, to);
        }
        let train = |model: &str, out: &str| {
            let recipe =
                RECIPE.replace("_path model ", &format!("_path {model} ")).replace("_dir out", &format!("_dir {out}"));
            scratch.run(&format!("train {recipe} --max_steps 2 --workers 1")).expect(0);
            scratch.sha256(&format!("{out}/model.safetensors"))
        };
        assert_eq!(train("pickled", "one"), train("converted", "two"), "{weights}");
    }
}

#[test]
fn nothing_is_replaced_unless_it_is_forced() {
    let scratch = pickled("tiny-bert/model/pytorch_model.bin");
    std::fs::create_dir(scratch.path("there")).unwrap();
    scratch.write("there/model.safetensors", "mine");
    scratch.write("there/config.json", "mine");
    let told = ["there/config.json, there/model.safetensors are there already; give --force"];
    scratch.run("convert pickled there").expect(78).says(&told);
    assert_eq!((scratch.read("there/model.safetensors"), names(&scratch, "there").len()), ("mine".to_owned(), 2));
    scratch.run("convert pickled there --force").expect(0);
    assert_eq!(scratch.sha256("there/config.json"), scratch.sha256("pickled/config.json"));
    // In its own folder only the weights are new; a file of its own has nothing beside it.
    scratch.run("convert pickled pickled").expect(0);
    scratch.run("convert pickled/pytorch_model.bin alone.safetensors").expect(0);
    let weights = scratch.sha256("there/model.safetensors");
    assert_eq!(
        [scratch.sha256("pickled/model.safetensors"), scratch.sha256("alone.safetensors")],
        [weights.clone(), weights]
    );
    scratch.run("convert pickled pickled").expect(78);
}

#[test]
fn what_is_no_pickle_of_tensors_is_refused() {
    let scratch = pickled("tiny-bert/model/pytorch_model.bin");
    let refused = |arguments: &str, code, parts: &[&str]| {
        scratch.run(&format!("convert {arguments}")).expect(code).says(parts);
        assert!(!scratch.path("out").exists(), "{arguments}");
    };
    refused("model out", 65, &["model has no pytorch_model.bin"]);
    refused("nowhere.bin out", 65, &["nowhere.bin"]);
    refused("model/model.safetensors out", 65, &["is no file that torch.save wrote"]);
    // What `torch.save({"weight": ..., "code": Hostile()}, _use_new_zipfile_serialization=False)` comes to.
    let magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    let code = b"\x80\x02}X\x04\x00\x00\x00codecposix\nsystem\nX\x0b\x00\x00\x00touch pwned\x85Rs.\x80\x02].";
    std::fs::write(scratch.path("hostile.bin"), [&magic[..], code].concat()).unwrap();
    refused("hostile.bin out", 65, &["hostile.bin: names posix.system, of which no tensor is made"]);
    assert!(!scratch.path("pwned").exists());
    let number = b"\x80\x02}X\x05\x00\x00\x00epochK\x03s.\x80\x02].";
    std::fs::write(scratch.path("number.bin"), [&magic[..], number].concat()).unwrap();
    refused("number.bin out", 65, &["number.bin: holds epoch, which is no tensor"]);
    let bytes = std::fs::read(scratch.path("pickled/pytorch_model.bin")).unwrap();
    std::fs::write(scratch.path("cut.bin"), &bytes[..bytes.len() / 2]).unwrap();
    refused("cut.bin out", 65, &["cut.bin"]);
}
