//! (map to be written when the house stands)
pub mod backend;
pub mod encode;
pub mod error;
pub mod normalize;
pub mod plan;
pub mod sink;
pub mod source;
pub mod tensor;
pub use error::Error;
pub use normalize::{Extent, Norm, Range};
pub use sink::{FilesSink, MemorySink, NullSink, Pending, Sink};
pub use source::{MemorySource, SafetensorsFiles, Source};
pub use tensor::{Dtype, Dump, TensorInfo};
