/** Certificates for a server on loopback and for its clients, of an authority that exists for this one purpose. */
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Effect from "effect/Effect"
import * as Need from "../Need.ts"

/** PEM texts, and the files in which they are. */
export interface Certificates {
  /** The authority's certificate, which a client must trust. */
  readonly ca: string
  readonly caFile: string
  /** The server's own, for 127.0.0.1 and localhost. */
  readonly serverCertFile: string
  readonly serverKeyFile: string
  /** A client's, for servers that ask for one. Its name is `client`. */
  readonly cert: string
  readonly certFile: string
  readonly key: string
  readonly keyFile: string
}

/** Makes them in `folder` with openssl. Fails with what openssl printed. */
export const make = (folder: string): Effect.Effect<Certificates, string> =>
  Effect.gen(function* () {
    const binary = Need.program("openssl")
    if (binary === undefined) return yield* Effect.fail("openssl is not installed: apt-get install openssl")
    const at = (name: string) => Path.join(folder, name)
    const openssl = (...argv: ReadonlyArray<string>): Effect.Effect<void, string> =>
      Effect.async((resume) => {
        ChildProcess.execFile(binary, argv, (error, _, errors) =>
          resume(error === null ? Effect.void : Effect.fail(`${error.message}\n${errors}`))
        )
      })
    const keyed = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    yield* openssl(
      ...[
        "req",
        "-x509",
        ...keyed,
        "-keyout",
        at("ca.key"),
        "-out",
        at("ca.crt"),
        "-days",
        "2",
        "-subj",
        "/CN=test-ca"
      ],
      ...["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    )
    const issue = (name: string, extensions: string): Effect.Effect<void, string> =>
      Effect.zipRight(
        openssl("req", ...keyed, "-keyout", at(`${name}.key`), "-out", at(`${name}.csr`), "-subj", `/CN=${name}`),
        Effect.suspend(() => {
          Fs.writeFileSync(at(`${name}.ext`), extensions)
          return openssl(
            ...["x509", "-req", "-in", at(`${name}.csr`), "-CA", at("ca.crt"), "-CAkey", at("ca.key")],
            ...["-set_serial", name === "server" ? "2" : "3", "-days", "2", "-out", at(`${name}.crt`)],
            ...["-extfile", at(`${name}.ext`)]
          )
        })
      )
    yield* Effect.all(
      [
        issue("server", "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n"),
        issue("client", "extendedKeyUsage=clientAuth\n")
      ],
      { concurrency: "unbounded" }
    )
    const text = (name: string) => Fs.readFileSync(at(name), "utf8")
    return {
      ca: text("ca.crt"),
      caFile: at("ca.crt"),
      serverCertFile: at("server.crt"),
      serverKeyFile: at("server.key"),
      cert: text("client.crt"),
      certFile: at("client.crt"),
      key: text("client.key"),
      keyFile: at("client.key")
    }
  })
