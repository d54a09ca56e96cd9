//! The judge: one Python process for each test, asked line by line.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

/// `schemas/` of this repository.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas")
}

/// Reads a schema from its file.
pub fn read(name: &str) -> Value {
    let file = folder().join(name);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Validates documents.
pub struct Judge {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Judge {
    pub fn start() -> Self {
        let mut command = Command::new("python3");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("contract/judge.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("python3 is installed");
        let (questions, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, questions, answers }
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.questions, "{question}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("judge.py ended; python3-jsonschema and python3-yaml are needed"))
    }

    /// Whether the document is valid, and why not.
    pub fn validate(&mut self, schema: &str, document: &Value) -> (bool, String) {
        self.validate_as(schema, document, false)
    }

    /// Panics unless the document is valid and has no field that the schema does not name.
    pub fn is_complete(&mut self, schema: &str, document: &Value) {
        let (valid, why) = self.validate_as(schema, document, true);
        assert!(valid, "schemas/{schema}.json does not describe what is written: {why}\n{document:#}");
    }

    fn validate_as(&mut self, schema: &str, document: &Value, closed: bool) -> (bool, String) {
        let answer = self.ask(&json!({ "schema": schema, "closed": closed, "document": document }));
        (answer["valid"].as_bool().unwrap(), answer["why"].as_str().unwrap().to_owned())
    }

    /// A YAML file of `schemas/`.
    pub fn yaml(&mut self, file: &str) -> Value {
        self.ask(&json!({ "yaml": file }))["document"].take()
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        // The process exits at end of input; a test that panics does not wait for it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
