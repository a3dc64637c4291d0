/**
 * Ceph's object gateway, an S3 that checks signatures and conditions: one monitor, one manager, one store in memory and
 * the gateway, all on loopback, of the programs of Debian (`radosgw ceph-mon ceph-osd ceph-mgr ceph-common`). It takes
 * about 13 seconds and 450 MB. Of version 16 it knows neither checksums in trailers nor a condition of
 * CompleteMultipartUpload.
 */
import * as ChildProcess from "node:child_process"
import * as Crypto from "node:crypto"
import * as Fs from "node:fs"
import * as Http from "node:http"
import * as Path from "node:path"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Machine from "./internal/machine.ts"
import * as Need from "./Need.ts"

/** The server could not be made or started. */
export class RadosgwServerError extends Data.TaggedError("RadosgwServerError")<{
  readonly description: string
  readonly log?: string
}> {
  override get message(): string {
    return this.log === undefined ? this.description : `${this.description}\n${this.log}`
  }
}

/** Keys of a user. */
export interface User {
  readonly accessKeyId: string
  readonly secretAccessKey: string
}

/** A running server. */
export interface RadosgwServer extends User {
  readonly host: string
  readonly port: number
  readonly endpoint: string
  readonly region: string
  /** Makes another user, with nothing of his own and no rights to what others have. */
  readonly user: (name: string) => Effect.Effect<User, RadosgwServerError>
  /** SIGSTOP to the gateway: connections are accepted by the kernel, nothing answers. */
  readonly freeze: Effect.Effect<void>
  /** SIGCONT. */
  readonly thaw: Effect.Effect<void>
}

const host = Machine.host

/** The programs that are needed. */
export const programs = ["radosgw", "ceph-mon", "ceph-mgr", "ceph-osd", "ceph", "ceph-authtool", "monmaptool"] as const

/** Starts a server for the life of the scope. */
export const make: Effect.Effect<RadosgwServer, RadosgwServerError, Scope.Scope> = Effect.gen(function* () {
  const found = new Map<string, string>()
  for (const name of [...programs, "radosgw-admin"]) {
    const path = Need.program(name)
    if (path === undefined) {
      return yield* new RadosgwServerError({
        description: `${name} is not installed: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-mgr ceph-common`
      })
    }
    found.set(name, path)
  }
  const program = (name: string): string => found.get(name) ?? name
  const folder = yield* Machine.folder("underlay-radosgw-")
  const [first, second, port] = yield* Effect.all([Machine.freePort, Machine.freePort, Machine.freePort])
  const file = (...names: ReadonlyArray<string>): string => Path.join(folder, ...names)
  const fsid = Crypto.randomUUID()
  const monitor = `[v2:${host}:${first},v1:${host}:${second}]`

  yield* Effect.sync(() => {
    for (const name of ["mon", "mgr", "osd", "rgw"]) Fs.mkdirSync(file(name))
    Fs.writeFileSync(
      file("ceph.conf"),
      [
        "[global]",
        `fsid = ${fsid}`,
        `mon host = ${monitor}`,
        `public addr = ${host}`,
        `cluster addr = ${host}`,
        // without them the gateway waits for ever
        "auth cluster required = cephx",
        "auth service required = cephx",
        "auth client required = cephx",
        `keyring = ${file("keyring")}`,
        `run dir = ${folder}`,
        "pid file =",
        "admin socket =",
        `log file = ${file("$name.log")}`,
        "osd pool default size = 1",
        "osd pool default min size = 1",
        "osd crush chooseleaf type = 0",
        "mon allow pool size one = true",
        "osd pool default pg num = 1",
        "osd pool default pgp num = 1",
        "osd pool default pg autoscale mode = off",
        "mon max pg per osd = 4000",
        "[mon.a]",
        `mon data = ${file("mon")}`,
        "[mgr]",
        `mgr data = ${file("mgr")}`,
        "[osd.0]",
        `osd data = ${file("osd")}`,
        "osd objectstore = memstore",
        "memstore device bytes = 8589934592",
        "[client.rgw.a]",
        `rgw frontends = beast endpoint=${host}:${port}`,
        `rgw data = ${file("rgw")}`,
        "rgw thread pool size = 64",
        ""
      ].join("\n")
    )
  })

  const run = (name: string, ...argv: ReadonlyArray<string>): Effect.Effect<string, RadosgwServerError> =>
    Effect.async((resume) => {
      const child = ChildProcess.execFile(
        program(name),
        argv,
        { cwd: folder, env: { PATH: process.env["PATH"] ?? "", CEPH_CONF: file("ceph.conf") }, timeout: 60_000 },
        (error, out, errors) =>
          resume(
            error === null
              ? Effect.succeed(out)
              : new RadosgwServerError({ description: `${name} failed`, log: `${out}${errors}`.slice(-2_000) })
          )
      )
      return Effect.sync(() => {
        child.kill("SIGKILL")
      })
    })
  const conf = ["-c", file("ceph.conf")]

  const key = (name: string, ...caps: ReadonlyArray<string>) =>
    run(
      "ceph-authtool",
      file("keyring"),
      "--gen-key",
      "-n",
      name,
      ...caps.flatMap((cap) => ["--cap", ...cap.split("=")])
    )
  yield* run("ceph-authtool", "--create-keyring", file("keyring"), "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
  yield* key("client.admin", "mon=allow *", "osd=allow *", "mgr=allow *")
  yield* key("osd.0", "mon=allow profile osd", "osd=allow *", "mgr=allow profile osd")
  yield* key("mgr.a", "mon=allow profile mgr", "osd=allow *", "mds=allow *")
  yield* key("client.rgw.a", "mon=allow rwx", "osd=allow rwx")
  yield* run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitor, file("monmap"))
  yield* run("ceph-mon", ...conf, "--mkfs", "-i", "a", "--monmap", file("monmap"), "--keyring", file("keyring"))

  const daemon = (name: string, ...argv: ReadonlyArray<string>) =>
    Effect.tap(
      Machine.daemon(program(name), () => [...conf, ...argv, "-f"]),
      ({ launch }) => launch
    )
  yield* daemon("ceph-mon", "-i", "a")
  yield* daemon("ceph-mgr", "-i", "a")
  const id = Crypto.randomUUID()
  yield* run("ceph", ...conf, "osd", "new", id, "0")
  yield* run("ceph-osd", ...conf, "-i", "0", "--mkfs", "--osd-uuid", id)
  yield* daemon("ceph-osd", "-i", "0")
  const gateway = yield* daemon("radosgw", "-n", "client.rgw.a")
  yield* Machine.until(
    answers(port),
    60_000,
    () => new RadosgwServerError({ description: "the gateway was not ready within 60 s", log: gateway.log() }),
    100
  )

  const user = (name: string): Effect.Effect<User, RadosgwServerError> =>
    Effect.suspend(() => {
      const keys: User = {
        accessKeyId: Crypto.randomBytes(10).toString("hex").toUpperCase(),
        secretAccessKey: Crypto.randomBytes(30).toString("base64")
      }
      return Effect.as(
        run(
          "radosgw-admin",
          ...conf,
          ...["-n", "client.rgw.a", "user", "create", `--uid=${name}`, `--display-name=${name}`],
          ...[`--access-key=${keys.accessKeyId}`, `--secret-key=${keys.secretAccessKey}`]
        ),
        keys
      )
    })
  const owner = yield* user("underlay")
  return {
    ...owner,
    host,
    port,
    endpoint: `http://${host}:${port}`,
    region: "us-east-1",
    user,
    freeze: gateway.freeze,
    thaw: gateway.thaw
  }
})

const answers = (port: number): Effect.Effect<true | undefined> =>
  Effect.async((resume) => {
    const request = Http.get({ host, port, path: "/", agent: false, timeout: 2_000 }, (response) => {
      response.resume()
      resume(Effect.succeed(response.statusCode === 200 ? true : undefined))
    })
    request.on("timeout", () => request.destroy())
    request.on("error", () => resume(Effect.succeed(undefined)))
    return Effect.sync(() => {
      request.destroy()
    })
  })
