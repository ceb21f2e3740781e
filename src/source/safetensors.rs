pub struct SafetensorsFiles;
