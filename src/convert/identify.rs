//! Which run it is: hashes of all that decides names and bytes.

use std::time::UNIX_EPOCH;

use super::Options;
use crate::plan::{Naming, Plan};
use crate::record::Hasher;
use crate::record::identity::{Asked, Hash, Identity, Origin};
use crate::source::Source;

/// Names and bytes of images are part of what a plan's hash stands for: this is raised when the
/// program makes others of the same input.
const OUTPUT: u64 = 1;

/// Who makes the same files shares it.
pub(super) fn names_hash(source: &dyn Source, options: &Options, plan: &Plan) -> Hash {
    let mut hasher = Hasher::default();
    hash_naming(&mut hasher, &options.naming);
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

fn hash_naming(hasher: &mut Hasher, naming: &Naming) {
    match naming {
        Naming::Template(template) => hasher.text(template),
        Naming::List(list) => {
            hasher.number(list.len() as u64);
            list.iter().for_each(|name| hasher.text(name));
        }
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
    hasher.text(options.norm.name());
    for row in plan.rows() {
        let tensor = &source.tensors()[row.tensor];
        hasher.number(tensor.dump as u64);
        hasher.text(row.dtype.name());
        hasher.number(tensor.shape.len() as u64);
        tensor.shape.iter().for_each(|&axis| hasher.number(axis));
        hasher.number(row.plane(0));
    }
    let mut dumps = Vec::new();
    for (at, dump) in source.dumps().iter().enumerate() {
        let origin = source.origin(at);
        let modified = origin.and_then(|origin| origin.modified?.duration_since(UNIX_EPOCH).ok());
        let origin = Origin {
            path: dump.label.clone(),
            bytes: origin.map_or(0, |origin| origin.bytes),
            modified: modified.and_then(|since| u64::try_from(since.as_nanos()).ok()),
        };
        hasher.number(origin.bytes);
        dumps.push(origin);
    }
    let names = match &options.naming {
        Naming::Template(template) => template.clone(),
        Naming::List(list) => {
            let mut hasher = Hasher::default();
            list.iter().for_each(|name| hasher.text(name));
            format!("list {:016x}", hasher.finish())
        }
    };
    let asked = Asked {
        norm: options.norm.name().to_owned(),
        names,
        tensors: options.selection.tensors.clone(),
        exclude: options.selection.exclude.clone(),
        channel: options.selection.channel,
        hash,
    };
    Identity::new(hasher.finish(), plan.images(), asked, dumps)
}
