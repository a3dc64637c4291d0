/**
 * A real redis-server on a free loopback port, in a temporary folder: plain or with TLS, with users, as a replica, with
 * or without persistence. It can be killed, started again on its port, frozen and thawed, and it is stopped by its
 * process id when the scope closes.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Certificates from "./internal/certificates.ts"
import * as Connection from "./internal/connection.ts"
import * as Machine from "./internal/machine.ts"
import type * as Resp from "./internal/resp.ts"
import * as Need from "./Need.ts"

/** The server could not be started, or did not answer in time. */
export class RedisServerError extends Data.TaggedError("RedisServerError")<{
  readonly description: string
  readonly log?: string
}> {
  override get message(): string {
    return this.log === undefined ? this.description : `${this.description}\n${this.log}`
  }
}

/** Options of a server. */
export interface RedisServerOptions {
  /** The password that clients must send. A replica sends it to its master. */
  readonly password?: string | undefined
  /** Rules of ACL users, such as `["app on >secret ~app:* +@all -@dangerous"]`. The default user stays. */
  readonly users?: ReadonlyArray<string> | undefined
  /** Only TLS is spoken, with certificates made for this server. `"mutual"`: clients must show one too. */
  readonly tls?: boolean | "mutual" | undefined
  /** Certificates that exist already: several servers that are one system share them. */
  readonly certificates?: Certificates.Certificates | undefined
  /** The master whose replica it is. It is started when it holds the master's data, unless `awaitMaster` is false. */
  readonly replicaOf?: { readonly host: string; readonly port: number; readonly awaitMaster?: boolean } | undefined
  /** Every write is on disk before it is answered, and is there again after `kill` and `start`. Default: nothing is. */
  readonly appendOnly?: boolean | undefined
  /** The port. Default: a free one. */
  readonly port?: number | undefined
  /** Further arguments of redis-server, such as `["--maxmemory", "2mb"]`. */
  readonly arguments?: ReadonlyArray<string> | undefined
}

/** A running (or killed, or frozen) server. */
export interface RedisServer {
  readonly host: string
  readonly port: number
  readonly url: string
  readonly password: string | undefined
  /** What a client needs to speak TLS with it. */
  readonly certificates: Certificates.Certificates | undefined
  /** Its process id while it runs. */
  readonly pid: Effect.Effect<number | undefined>
  /** The end of what it logged since it was started. */
  readonly log: Effect.Effect<string>
  /** Kills it as a crash would: SIGKILL, no farewell. Returns when the process is gone. */
  readonly kill: Effect.Effect<void>
  /** Stops it as an administrator would (SIGTERM). Returns when the process is gone. */
  readonly stop: Effect.Effect<void>
  /** Starts it again on the same port (after `kill` or `stop`); returns when it answers and has loaded its data. */
  readonly start: Effect.Effect<void, RedisServerError>
  /** SIGSTOP: the kernel still accepts connections, nothing answers. */
  readonly freeze: Effect.Effect<void>
  /** SIGCONT. */
  readonly thaw: Effect.Effect<void>
  /** Sends one command on a connection of its own and gives the raw reply (RESP). For test set-up. */
  readonly command: (...parts: ReadonlyArray<string>) => Effect.Effect<string, RedisServerError>
  /** Sends one command on a connection of its own and gives the reply as data. An error reply is a failure. */
  readonly call: (...parts: ReadonlyArray<string>) => Effect.Effect<Resp.Reply, RedisServerError>
  /** A connection for many commands. */
  readonly connect: Effect.Effect<Connection.Connection, RedisServerError, Scope.Scope>
}

const host = Machine.host

/** Starts a server for the life of the scope. */
export const make = (options: RedisServerOptions = {}): Effect.Effect<RedisServer, RedisServerError, Scope.Scope> => {
  const { password, replicaOf } = options
  const persistent = options.appendOnly === true
  const awaitsMaster = replicaOf !== undefined && replicaOf.awaitMaster !== false
  return run({
    options,
    argv: ({ data }) => [
      ...["--dir", data, "--save", ""],
      ...["--appendonly", persistent ? "yes" : "no", "--appendfsync", persistent ? "always" : "no"],
      ...["--enable-debug-command", "yes", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"],
      ...(password === undefined ? [] : ["--requirepass", password, "--masterauth", password]),
      ...(options.users ?? []).flatMap((rule) => ["--user", ...rule.trim().split(/\s+/)]),
      ...(replicaOf === undefined ? [] : ["--replicaof", replicaOf.host, String(replicaOf.port)]),
      ...(options.arguments ?? [])
    ],
    isReady: (info) => info.includes("\r\nloading:0") && !(awaitsMaster && info.includes("\r\nmaster_link_status:down"))
  })
}

/** What a program is run with that speaks the Redis protocol. For the other modules of this folder. */
export interface Program {
  readonly options: Pick<RedisServerOptions, "password" | "port" | "tls" | "certificates">
  /** The arguments that come after those of the network. */
  readonly argv: (place: { readonly data: string; readonly port: number }) => ReadonlyArray<string>
  /** Whether it is ready, by what it says at INFO. */
  readonly isReady: (info: string) => boolean
}

/** Starts a redis-server, whatever it is to be, for the life of the scope. For the other modules of this folder. */
export const run = (program: Program): Effect.Effect<RedisServer, RedisServerError, Scope.Scope> =>
  Effect.gen(function* () {
    const binary = Need.program("redis-server")
    if (binary === undefined) {
      return yield* new RedisServerError({ description: "redis-server is not installed: apt-get install redis-server" })
    }
    const { options } = program
    const { password } = options
    const data = yield* Machine.folder("underlay-redis-")
    const certificates =
      options.certificates ??
      (options.tls === undefined || options.tls === false ? undefined : yield* makeCertificates(data))
    let port = options.port ?? (yield* Machine.freePort)

    const network = () =>
      certificates === undefined
        ? ["--port", String(port), "--bind", host]
        : [
            ...["--port", "0", "--tls-port", String(port), "--bind", host, "--tls-replication", "yes"],
            ...["--tls-ca-cert-file", certificates.caFile],
            ...["--tls-cert-file", certificates.serverCertFile, "--tls-key-file", certificates.serverKeyFile],
            ...["--tls-auth-clients", options.tls === "mutual" ? "yes" : "optional"]
          ]
    const daemon = yield* Machine.daemon(binary, () => {
      const [first, ...others] = program.argv({ data, port })
      // a file of settings stands before all else
      return first === undefined || first.startsWith("--")
        ? [...network(), ...(first === undefined ? [] : [first]), ...others]
        : [first, ...network(), ...others]
    })

    const failed = (description: string) => new RedisServerError({ description, log: daemon.log().slice(-2_000) })
    const connect = Effect.mapError(
      Effect.suspend(() => Connection.connect({ host, port, password, certificates })),
      failed
    )
    const call: RedisServer["call"] = (...parts) =>
      Effect.scoped(Effect.flatMap(connect, (connection) => Effect.mapError(connection.call(...parts), failed)))
    const command: RedisServer["command"] = (...parts) =>
      Effect.scoped(
        Effect.flatMap(connect, (connection) =>
          Effect.mapBoth(connection.exchange([parts]), {
            onFailure: failed,
            onSuccess: ([answer]) => answer?.bytes.toString("utf8") ?? ""
          })
        )
      )

    const ready = Effect.suspend(() => {
      const mine = `\r\nprocess_id:${daemon.pid()}\r\n`
      return Effect.flatMap(Effect.either(call("INFO")), (answer) => {
        if (daemon.pid() === undefined) return Effect.fail(failed("redis-server did not start"))
        const info = answer._tag === "Right" ? String(answer.right) : ""
        // another server can have taken the port in the meantime: this must be ours
        return Effect.succeed(info.includes(mine) && program.isReady(info) ? true : undefined)
      })
    })
    const start = Effect.zipRight(
      daemon.launch,
      Effect.asVoid(Machine.until(ready, 20_000, () => failed("redis-server was not ready within 20 s")))
    )
    // Between choosing a port and using it, somebody else may take it.
    const startFirst = (left: number): Effect.Effect<void, RedisServerError> =>
      Effect.catchIf(
        start,
        () => left > 0 && options.port === undefined && isPortTaken(daemon.log()),
        () =>
          Effect.flatMap(Machine.freePort, (another) => {
            port = another
            return startFirst(left - 1)
          })
      )

    yield* startFirst(5)
    const secret = password === undefined ? "" : `:${encodeURIComponent(password)}@`
    return {
      host,
      port,
      url: `${certificates === undefined ? "redis" : "rediss"}://${secret}${host}:${port}`,
      password,
      certificates,
      pid: Effect.sync(() => daemon.pid()),
      log: Effect.sync(() => daemon.log()),
      kill: daemon.end("SIGKILL"),
      stop: daemon.end("SIGTERM"),
      start,
      freeze: daemon.freeze,
      thaw: daemon.thaw,
      command,
      call,
      connect
    }
  })

/** Whether a server that did not start says that somebody else has one of its ports. */
export const isPortTaken = (log: string): boolean => /Address already in use|Failed listening/.test(log)

/** Certificates for several servers that are one system. */
export const makeCertificates = (path: string): Effect.Effect<Certificates.Certificates, RedisServerError> =>
  Effect.mapError(
    Certificates.make(path),
    (log) => new RedisServerError({ description: "no certificates could be made", log })
  )

/** A loopback port on which nothing listens. */
export const freePort: Effect.Effect<number> = Machine.freePort
