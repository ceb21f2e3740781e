//! What a run is, so that another can tell whether it is the same.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{counted, shown};

/// The version of journals and manifests.
const VERSION: u32 = 1;

/// What decides a run's images: the same identity, the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of this format.
    version: u32,
    /// Hash of everything that decides names and bytes, 16 hexadecimal digits.
    pub plan: Hash,
    /// Number of images.
    pub images: u64,
    /// What was asked for.
    pub options: Asked,
    /// Where the samples come from, in order.
    pub dumps: Vec<Origin>,
}

/// 64 bits, as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Hash(pub u64);

/// The options that decide names and bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The normalization by name.
    pub norm: String,
    /// Its options that are not the default, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rule: BTreeMap<String, String>,
    /// How pixels are stored: options that are not the default, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub encoding: BTreeMap<String, String>,
    /// The template of names, or a hash of the list.
    pub names: String,
    /// Patterns of tensors to take.
    pub tensors: Vec<String>,
    /// Patterns of tensors to leave out.
    pub exclude: Vec<String>,
    /// Index of the third axis from the end.
    pub channel: Option<u64>,
    /// Whether pixels are hashed.
    pub hash: bool,
    /// What raw files hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// What NumPy's dtype `|V2` stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub npy_v2: Option<String>,
    /// What else was asked for of axes, tensors and images: options by name, each as often as it was given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub more: BTreeMap<String, Vec<String>>,
}

/// One dump, as it was when the run began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The path as given.
    pub path: String,
    /// Its bytes, header included.
    pub bytes: u64,
    /// When it was last modified, in nanoseconds since 1970.
    pub modified: Option<u64>,
    /// Of a dump of several files, a hash of the bytes and times of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Hash>,
}

impl Identity {
    /// The identity of a run.
    #[must_use]
    pub fn new(plan: u64, images: u64, options: Asked, dumps: Vec<Origin>) -> Identity {
        Identity { version: VERSION, plan: Hash(plan), images, options, dumps }
    }

    /// How a run of `now` differs from this one, in a way that makes other bytes; `None` if not.
    #[must_use]
    pub fn difference(&self, now: &Identity) -> Option<String> {
        if self.version != now.version {
            return Some(format!("its format is {}, and this is {}", self.version, now.version));
        }
        if self.dumps.len() != now.dumps.len() {
            let [was, is] = [self, now].map(|of| of.dumps.len());
            return Some(format!("it had {was} dumps, and now there are {is}"));
        }
        for (was, is) in self.dumps.iter().zip(&now.dumps) {
            let path = shown(&is.path);
            if was.bytes != is.bytes {
                let had = counted(was.bytes, "byte");
                return Some(format!("{path} had {had}, and now has {}", is.bytes));
            }
            if (was.modified, was.files) != (is.modified, is.files) {
                return Some(format!("{path} was modified since"));
            }
        }
        let (was, is) = (&self.options, &now.options);
        if was.hash != is.hash {
            let of = |hash| if hash { "with" } else { "without" };
            return Some(format!("it was {} --hash, and now is {} it", of(was.hash), of(is.hash)));
        }
        if self.plan == now.plan && self.images == now.images {
            return None;
        }
        let words = [("--norm", &was.norm, &is.norm), ("names", &was.names, &is.names)];
        for (what, was, is) in words {
            if was != is {
                return Some(format!("{what} was {}, and now is {}", shown(was), shown(is)));
            }
        }
        let asked = |of: &Asked| -> BTreeMap<String, String> {
            of.rule.iter().chain(&of.encoding).map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        let asked = [asked(was), asked(is)];
        for name in asked[0].keys().chain(asked[1].keys()) {
            let [was, is] = [0, 1].map(|at: usize| asked[at].get(name));
            if was != is {
                let of =
                    |text: Option<&String>| text.map_or("the default".to_owned(), |t| shown(t));
                return Some(format!("--{} was {}, and now is {}", shown(name), of(was), of(is)));
            }
        }
        let lists = [("-t", &was.tensors, &is.tensors), ("--exclude", &was.exclude, &is.exclude)];
        for (what, was, is) in lists {
            if was != is {
                let [was, is] = [was, is].map(|list| shown(&list.join(" ")));
                return Some(format!("{what} was \"{was}\", and now is \"{is}\""));
            }
        }
        let said = [("--raw", &was.raw, &is.raw), ("--npy-v2", &was.npy_v2, &is.npy_v2)];
        for (what, was, is) in said {
            if was != is {
                let [was, is] = [was, is].map(|of| of.as_deref().map_or("not given".into(), shown));
                return Some(format!("{what} was {was}, and now is {is}"));
            }
        }
        for name in was.more.keys().chain(is.more.keys()) {
            let [was, is] = [was, is].map(|asked| asked.more.get(name));
            if was != is {
                let of = |texts: Option<&Vec<String>>| match texts {
                    None => "not given".to_owned(),
                    Some(texts) if texts.iter().all(String::is_empty) => "given".to_owned(),
                    Some(texts) => shown(&texts.join(" ")),
                };
                return Some(format!("--{} was {}, and now is {}", shown(name), of(was), of(is)));
            }
        }
        if was.channel != is.channel {
            let of = |channel: Option<u64>| channel.map_or("none".to_owned(), |k| k.to_string());
            let [was, is] = [was, is].map(|options| of(options.channel));
            return Some(format!("--channel was {was}, and now is {is}"));
        }
        let name = |of: &Origin| Path::new(&of.path).file_name().map(std::ffi::OsStr::to_owned);
        if let Some((was, is)) =
            self.dumps.iter().zip(&now.dumps).find(|(was, is)| name(was) != name(is))
        {
            let [was, is] = [was, is].map(|of| shown(&of.path));
            return Some(format!(
                "the dump was {was}, and now is {is}, which images may have in their names; a copy that is called \
                 the same may be anywhere"
            ));
        }
        Some("the tensors, or this program's version, are others".to_owned())
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> String {
        format!("{:016x}", hash.0)
    }
}

impl TryFrom<String> for Hash {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Hash, Self::Error> {
        u64::from_str_radix(&text, 16).map(Hash)
    }
}
