//! The header of a safetensors file that is to be written.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::header::{self, LONGEST};

/// A header for tensors of f32 with these names and shapes, whose samples follow it in this order: the
/// file up to the first of them.
///
/// # Errors
/// In one line, where the format has no such header: names that are there twice, or too many.
pub(crate) fn safetensors_header(
    tensors: &[(String, Vec<u64>)],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, String> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut end: u64 = 0;
    for (name, shape) in tensors {
        let bytes = shape.iter().try_fold(4_u64, |bytes, &axis| bytes.checked_mul(axis));
        let begin = end;
        let sum = bytes.and_then(|bytes| end.checked_add(bytes));
        end = sum.ok_or_else(|| "the tensors have more than 2^64 bytes".to_owned())?;
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, end] });
        if entries.insert(name.clone(), entry).is_some() {
            return Err(format!("there is more than one tensor {}", crate::error::shown(name)));
        }
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    // As the format's own crate does, so that samples are aligned.
    text.resize(text.len().next_multiple_of(8), b' ');
    if text.len() as u64 > LONGEST {
        return Err(format!("its header would have more than {LONGEST} bytes"));
    }
    // What is written is what is read.
    header::parse(&text, end)?;
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.append(&mut text);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_the_formats_own_crate_reads() {
        let tensors = [("b\n\"é".to_owned(), vec![2, 3]), ("a".to_owned(), vec![1, 0, 5])];
        let metadata = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let mut file = safetensors_header(&tensors, &metadata).unwrap();
        assert_eq!(file.len() % 8, 0);
        file.resize(file.len() + 24, 0);
        let read = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(read.tensor("b\n\"é").unwrap().shape(), [2, 3]);
        assert_eq!(read.tensor("a").unwrap().shape(), [1, 0, 5]);
        let twice = [("a".to_owned(), vec![1]), ("a".to_owned(), vec![1])];
        assert!(
            safetensors_header(&twice, &metadata).unwrap_err().contains("more than one tensor a")
        );
        let large = [("a".to_owned(), vec![1 << 62])];
        assert!(safetensors_header(&large, &metadata).unwrap_err().contains("2^64"));
    }
}
