pub struct FilesSink;
