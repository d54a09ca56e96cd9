// aedes with mutual TLS on the loopback port that is its first argument; the second is the directory of its certificates.
// It knows nothing beyond its memory: a restart forgets sessions and retained messages.
const { readFileSync } = require('fs')
const tls = require('tls')
const aedes = require('aedes')()

const [port, dir] = process.argv.slice(2)
const read = (name) => readFileSync(`${dir}/${name}`)
const options = { key: read('server.key'), cert: read('server.pem'), ca: read('ca.pem'), requestCert: true, rejectUnauthorized: true }
tls.createServer(options, aedes.handle).listen(Number(port), '127.0.0.1', () => console.log('listening'))
aedes.on('clientError', (client, error) => console.log('client', client.id, error.message))
aedes.on('connectionError', (client, error) => console.log('connection', error.message))
