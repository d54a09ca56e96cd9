//! rumqttd with the configuration file that is its only argument. Its own program needs features that no longer build.

use rumqttd::{Broker, Config};

fn main() {
    let path = std::env::args().nth(1).expect("usage: care-rumqttd CONFIG");
    let file = config::File::new(&path, config::FileFormat::Toml);
    let config: Config = config::Config::builder().add_source(file).build().unwrap().try_deserialize().unwrap();
    Broker::new(config).start().unwrap();
}
