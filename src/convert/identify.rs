//! Which run it is: hashes of all that decides names and bytes.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use super::Options;
use crate::plan::{Naming, Plan, Stack, whole_name};
use crate::record::Hasher;
use crate::record::identity::{Asked, Hash, Identity, Origin};
use crate::source::Source;
use crate::tensor;

/// Names and bytes of images are part of what a plan's hash stands for: this is raised when the
/// program makes others of the same input.
const OUTPUT: u64 = 3;

/// Options that decide which files there are, beside the shapes of tensors.
const NAMING: [&str; 7] = ["tensor-regex", "select", "every", "sample", "seed", "limit", "stack"];

/// Who makes the same files shares it.
pub(super) fn names_hash(source: &dyn Source, options: &Options, plan: &Plan) -> Hash {
    let mut hasher = Hasher::default();
    if let Some(tar) = &options.tar {
        // Whatever is in it: a run replaces another one's, and numbered ones have the manifest of one.
        hasher.text("tar");
        hasher.text(&tar.to_string());
        return Hash(hasher.finish());
    }
    hash_naming(&mut hasher, &options.naming);
    let mut of_names = more(source, options);
    of_names.retain(|name, _| NAMING.contains(&name.as_str()));
    hash_more(&mut hasher, &of_names);
    for row in plan.rows() {
        let tensor = &source.tensors()[row.tensor];
        hasher.text(&source.dumps()[tensor.dump].stem);
        hasher.text(&tensor.name);
        hasher.number(row.images);
        hasher.text(&row.index_text(0));
        hasher.text(&row.index_text(row.images - 1));
    }
    Hash(hasher.finish())
}

/// What was asked for of axes, tensors and images, option by option.
fn more(source: &dyn Source, options: &Options) -> BTreeMap<String, Vec<String>> {
    let selection = options.selection.texts().into_iter().map(|(name, text)| (name, vec![text]));
    let complex = source.reading().complex.map(|complex| vec![complex.to_string()]);
    let complex = complex.map(|texts| ("complex".to_owned(), texts));
    let is_stacked = options.stack != Stack::None;
    let stack = is_stacked.then(|| ("stack".to_owned(), vec![options.stack.to_string()]));
    let tar = options.tar.as_ref().map(|tar| ("tar".to_owned(), tar.texts()));
    let files = stack.into_iter().chain(tar);
    source.layout().texts().into_iter().chain(selection).chain(complex).chain(files).collect()
}

fn hash_more(hasher: &mut Hasher, more: &BTreeMap<String, Vec<String>>) {
    for (name, texts) in more {
        hasher.text(name);
        hasher.number(texts.len() as u64);
        texts.iter().for_each(|text| hasher.text(text));
    }
}

fn hash_naming(hasher: &mut Hasher, naming: &Naming) {
    match naming {
        Naming::Template(template) => hasher.text(template),
        Naming::List(list) => {
            hasher.number(list.len() as u64);
            list.iter().for_each(|name| hasher.text(&whole_name(name)));
        }
    }
}

fn named(texts: Vec<(&'static str, String)>) -> BTreeMap<String, String> {
    texts.into_iter().map(|(name, text)| (name.to_owned(), text)).collect()
}

/// Of several files all bytes, the latest time, and a hash of what each has.
fn origin(path: String, files: &[tensor::Origin]) -> Origin {
    let modified = |file: &tensor::Origin| {
        let since = file.modified?.duration_since(UNIX_EPOCH).ok()?;
        u64::try_from(since.as_nanos()).ok()
    };
    let times: Option<Vec<u64>> = files.iter().map(modified).collect();
    let several = || {
        let mut hasher = Hasher::default();
        for file in files {
            hasher.number(file.bytes);
            hasher.number(modified(file).unwrap_or(0));
        }
        Hash(hasher.finish())
    };
    Origin {
        path,
        bytes: files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes)),
        modified: times.and_then(|times| times.into_iter().max()),
        files: (files.len() > 1).then(several),
    }
}

/// See [`Identity`].
pub(super) fn identity(
    source: &dyn Source,
    options: &Options,
    plan: &Plan,
    hash: bool,
    names: Hash,
) -> Identity {
    let mut hasher = Hasher::default();
    hasher.number(OUTPUT);
    hasher.number(names.0);
    if options.tar.is_some() {
        hash_naming(&mut hasher, &options.naming);
    }
    hash_more(&mut hasher, &more(source, options));
    hasher.text(options.rule.norm.name());
    let besides =
        || options.rule.texts(options.scope).into_iter().filter(|(name, _)| *name != "norm");
    for (name, text) in besides() {
        hasher.text(name);
        hasher.text(&text);
    }
    for (name, text) in options.encoding.texts() {
        hasher.text(name);
        hasher.text(&text);
    }
    for row in plan.rows() {
        let tensor = &source.tensors()[row.tensor];
        hasher.number(tensor.dump as u64);
        if options.tar.is_some() {
            hasher.text(&source.dumps()[tensor.dump].stem);
            hasher.text(&tensor.name);
        }
        hasher.text(row.dtype.name());
        hasher.number(tensor.shape.len() as u64);
        tensor.shape.iter().for_each(|&axis| hasher.number(axis));
        hasher.number(row.plane(0));
    }
    // Type and shape are those of the rows.
    let reading = source.reading();
    if let Some(raw) = &reading.raw {
        let (offset, swapped) = raw.place();
        hasher.number(offset);
        hasher.number(u64::from(swapped));
    }
    let mut dumps = Vec::new();
    for (at, dump) in source.dumps().iter().enumerate() {
        let origin = origin(dump.label.clone(), &source.origins(at));
        hasher.number(origin.bytes);
        dumps.push(origin);
    }
    let names = match &options.naming {
        Naming::Template(template) => template.clone(),
        Naming::List(list) => {
            let mut hasher = Hasher::default();
            list.iter().for_each(|name| hasher.text(&whole_name(name)));
            format!("list {:016x}", hasher.finish())
        }
    };
    let asked = Asked {
        norm: options.rule.norm.name().to_owned(),
        rule: besides().map(|(name, text)| (name.to_owned(), text)).collect(),
        encoding: named(options.encoding.texts()),
        names,
        tensors: options.selection.tensors.clone(),
        exclude: options.selection.exclude.clone(),
        channel: options.selection.channel,
        hash,
        raw: reading.raw.as_ref().map(ToString::to_string),
        npy_v2: reading.npy_v2.as_ref().map(ToString::to_string),
        more: more(source, options),
    };
    Identity::new(hasher.finish(), plan.images(), asked, dumps)
}
