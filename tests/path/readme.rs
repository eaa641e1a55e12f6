//! The README says what is: its Rust is an example, its YAML loads, the files it names are there.
