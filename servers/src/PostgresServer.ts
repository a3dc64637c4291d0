/**
 * A real PostgreSQL on a free loopback port, in a temporary folder, with a password. It can be killed, started again on
 * its port, frozen and thawed, and it is stopped by its process id when the scope closes.
 */
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Net from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Certificates from "./internal/certificates.ts"
import * as Machine from "./internal/machine.ts"
import * as Need from "./Need.ts"

/** The server could not be made or started, or a program of it failed. */
export class PostgresServerError extends Data.TaggedError("PostgresServerError")<{
  readonly description: string
  readonly log?: string
}> {
  override get message(): string {
    return this.log === undefined ? this.description : `${this.description}\n${this.log}`
  }
}

/** Options of a server. */
export interface PostgresServerOptions {
  /** Settings of postgresql.conf, such as `{ max_connections: "20" }`. */
  readonly settings?: Readonly<Record<string, string>> | undefined
  /** The folder with `initdb` and `postgres`. Default: that of Debian's newest. */
  readonly programs?: string | undefined
  /** TLS, with certificates made for this server: `only` refuses what is not encrypted, `clientCertificate` wants one. */
  readonly tls?: { readonly only?: boolean | undefined; readonly clientCertificate?: boolean | undefined } | undefined
}

/** A running (or killed, or frozen) server. */
export interface PostgresServer {
  readonly host: string
  readonly port: number
  readonly username: string
  readonly password: string
  readonly database: string
  readonly url: string
  /** Of a server with TLS: the authority, and a client's own certificate, as texts and files. */
  readonly certificates: Certificates.Certificates | undefined
  /** Kills it as a crash would: SIGKILL, no farewell. Returns when the process is gone. */
  readonly kill: Effect.Effect<void>
  /** Stops it as an administrator would (a fast shutdown); its clients are told. */
  readonly stop: Effect.Effect<void>
  /** Starts it again on the same port, with the same data; returns when it accepts connections. */
  readonly start: Effect.Effect<void, PostgresServerError>
  /** SIGSTOP to the server and its backends: connections are still accepted by the kernel, nothing answers. */
  readonly freeze: Effect.Effect<void>
  /** SIGCONT. */
  readonly thaw: Effect.Effect<void>
  /** Runs SQL with psql, over a connection of its own, and gives what it prints: rows by line, columns by `|`. */
  readonly sql: (text: string) => Effect.Effect<string, PostgresServerError>
}

const host = "127.0.0.1"
const username = "underlay"
const password = "s3cret/with:odd@characters"
const database = "postgres"

// PostgreSQL refuses to run as root, so root lends it the account of its package, or of nobody.
const account = (): { readonly uid: number; readonly gid: number } | undefined => {
  if (process.getuid?.() !== 0) return undefined
  const lines = Fs.readFileSync("/etc/passwd", "utf8").split("\n")
  for (const name of ["postgres", "nobody"]) {
    const fields = lines.find((line) => line.startsWith(`${name}:`))?.split(":")
    if (fields !== undefined) return { uid: Number(fields[2]), gid: Number(fields[3]) }
  }
  return undefined
}

/** Starts a server for the life of the scope. */
export const make = (
  options: PostgresServerOptions = {}
): Effect.Effect<PostgresServer, PostgresServerError, Scope.Scope> =>
  Effect.gen(function* () {
    const { programs } = options
    const folders = Need.postgresFolders()
    const initdb = programs === undefined ? Need.program("initdb", folders) : Path.join(programs, "initdb")
    const postgres = programs === undefined ? Need.program("postgres", folders) : Path.join(programs, "postgres")
    const psql = Need.program("psql", folders)
    if (initdb === undefined || postgres === undefined || psql === undefined) {
      return yield* new PostgresServerError({ description: "PostgreSQL is not installed: apt-get install postgresql" })
    }
    const as: { readonly uid?: number; readonly gid?: number } = account() ?? {}
    const own = (path: string): void => {
      if (as.uid !== undefined && as.gid !== undefined) Fs.chownSync(path, as.uid, as.gid)
    }
    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const path = Fs.mkdtempSync(Path.join(Os.tmpdir(), "underlay-postgres-"))
        own(path)
        return path
      }),
      (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true, force: true, maxRetries: 5 }))
    )
    let port = yield* freePort
    const data = Path.join(folder, "data")

    const program = (
      file: string,
      argv: ReadonlyArray<string>,
      input = "",
      environment: Readonly<Record<string, string>> = {}
    ): Effect.Effect<string, PostgresServerError> =>
      Effect.async((resume) => {
        const child = ChildProcess.spawn(file, argv, {
          ...as,
          cwd: folder,
          env: { PATH: process.env["PATH"] ?? "", LC_ALL: "C.UTF-8", ...environment },
          stdio: ["pipe", "pipe", "pipe"]
        })
        let output = ""
        let errors = ""
        child.stdout.on("data", (chunk: Buffer) => {
          output += chunk.toString("utf8")
        })
        child.stderr.on("data", (chunk: Buffer) => {
          errors += chunk.toString("utf8")
        })
        const fail = (description: string) =>
          resume(new PostgresServerError({ description, log: (output + errors).slice(-2_000) }))
        child.on("error", (error) => fail(error.message))
        child.on("close", (code) =>
          code === 0 ? resume(Effect.succeed(output)) : fail(`${Path.basename(file)} ended with ${code}`)
        )
        child.stdin.on("error", () => {})
        child.stdin.end(input)
        return Effect.sync(() => {
          child.kill("SIGKILL")
        })
      })

    const secret = Path.join(folder, "password")
    yield* Effect.sync(() => {
      Fs.writeFileSync(secret, password, { mode: 0o600 })
      own(secret)
    })
    yield* program(initdb, [
      ...["--pgdata", data, "--username", username, "--pwfile", secret, "--auth", "scram-sha-256"],
      ...["--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
    ])

    const { tls } = options
    const certificates =
      tls === undefined
        ? undefined
        : yield* Effect.mapError(Certificates.make(folder), (description) => new PostgresServerError({ description }))
    const clientFiles = { cert: certificates?.certFile ?? "", key: certificates?.keyFile ?? "" }
    if (certificates !== undefined && tls !== undefined) {
      yield* Effect.sync(() => {
        for (const file of Object.values(clientFiles)) own(file)
        Fs.chmodSync(clientFiles.key, 0o600)
        for (const file of [certificates.caFile, certificates.serverCertFile, certificates.serverKeyFile]) own(file)
        Fs.chmodSync(certificates.serverKeyFile, 0o600)
        const rule = `all all 127.0.0.1/32 scram-sha-256`
        Fs.writeFileSync(
          Path.join(data, "pg_hba.conf"),
          `hostssl ${rule}${tls.clientCertificate === true ? " clientcert=verify-ca" : ""}\n` +
            (tls.only === true || tls.clientCertificate === true ? "" : `hostnossl ${rule}\n`)
        )
      })
    }

    let child: ChildProcess.ChildProcess | undefined
    let log = ""

    const end = (signal: NodeJS.Signals) =>
      Effect.async<void>((resume) => {
        const running = child
        child = undefined
        if (running === undefined || running.exitCode !== null || running.signalCode !== null) {
          resume(Effect.void)
          return
        }
        const last = setTimeout(() => running.kill("SIGKILL"), 10_000)
        running.once("exit", () => {
          clearTimeout(last)
          resume(Effect.void)
        })
        // A frozen process would not hear it.
        running.kill("SIGCONT")
        running.kill(signal)
      })

    const settings = {
      fsync: "off",
      unix_socket_directories: "",
      ...(certificates === undefined
        ? {}
        : {
            ssl: "on",
            ssl_ca_file: certificates.caFile,
            ssl_cert_file: certificates.serverCertFile,
            ssl_key_file: certificates.serverKeyFile
          }),
      ...options.settings
    }

    const launch = Effect.async<"ready" | "again", PostgresServerError>((resume) => {
      log = ""
      const spawned = ChildProcess.spawn(
        postgres,
        [
          ...["-D", data, "-h", host, "-p", String(port)],
          ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`])
        ],
        {
          ...as,
          cwd: folder,
          env: { PATH: process.env["PATH"] ?? "", LC_ALL: "C.UTF-8" },
          stdio: ["ignore", "ignore", "pipe"]
        }
      )
      child = spawned
      children.add(spawned)
      const limit = setTimeout(() => {
        resume(new PostgresServerError({ description: "PostgreSQL was not ready within 20 s", log: log.slice(-2_000) }))
      }, 20_000)
      spawned.stderr.on("data", (chunk: Buffer) => {
        log = (log + chunk.toString("utf8")).slice(-20_000)
        if (log.includes("ready to accept connections")) {
          clearTimeout(limit)
          resume(Effect.succeed("ready"))
        }
      })
      spawned.once("error", (error) => {
        clearTimeout(limit)
        resume(new PostgresServerError({ description: error.message }))
      })
      spawned.once("exit", () => {
        clearTimeout(limit)
        children.delete(spawned)
        // The backends of a killed server go a moment after it and keep its memory until then.
        resume(
          /pre-existing shared memory|lock file|Address already in use/.test(log)
            ? Effect.succeed("again")
            : new PostgresServerError({ description: "PostgreSQL did not start", log: log.slice(-2_000) })
        )
      })
    })

    const startWithin = (left: number): Effect.Effect<void, PostgresServerError> =>
      Effect.flatMap(launch, (outcome) => {
        if (outcome === "ready") return Effect.void
        return left > 0
          ? Effect.zipRight(pause(100), startWithin(left - 1))
          : new PostgresServerError({ description: "PostgreSQL did not start again", log: log.slice(-2_000) })
      })

    // Between choosing a port and using it, somebody else may take it.
    const firstStart = (left: number): Effect.Effect<void, PostgresServerError> =>
      Effect.flatMap(launch, (outcome) => {
        if (outcome === "ready") return Effect.void
        if (left === 0) {
          return new PostgresServerError({ description: "PostgreSQL found no port", log: log.slice(-2_000) })
        }
        return Effect.flatMap(freePort, (another) => {
          port = another
          return firstStart(left - 1)
        })
      })

    // The server's own and its backends' process ids, by what /proc says of their parents.
    const family = (): ReadonlyArray<number> => {
      const root = child?.pid
      if (root === undefined) return []
      const backends = Fs.readdirSync("/proc").flatMap((name) => {
        if (!/^\d+$/.test(name)) return []
        try {
          const stat = Fs.readFileSync(`/proc/${name}/stat`, "utf8")
          const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1])
          return parent === root ? [Number(name)] : []
        } catch {
          return []
        }
      })
      return [root, ...backends]
    }

    const thaw = Effect.sync(() => {
      for (const pid of family()) {
        try {
          process.kill(pid, "SIGCONT")
        } catch {
          // gone meanwhile
        }
      }
    })
    yield* Effect.addFinalizer(() => Effect.zipRight(thaw, end("SIGQUIT")))
    yield* firstStart(5)
    return {
      host,
      port,
      username,
      password,
      database,
      url: `postgres://${username}:${encodeURIComponent(password)}@${host}:${port}/${database}`,
      certificates,
      // Backends that are frozen would outlive the server.
      kill: Effect.zipRight(thaw, end("SIGKILL")),
      stop: Effect.zipRight(thaw, end("SIGINT")),
      start: startWithin(100),
      freeze: Effect.suspend(() => Machine.freeze(family())),
      thaw,
      sql: (text) =>
        Effect.map(
          program(
            psql,
            [
              "-h",
              host,
              "-p",
              String(port),
              "-U",
              username,
              "-d",
              database,
              "-X",
              "-q",
              "-A",
              "-t",
              "-v",
              "ON_ERROR_STOP=1"
            ],
            text,
            {
              PGPASSWORD: password,
              ...(certificates === undefined
                ? {}
                : { PGSSLMODE: "require", PGSSLCERT: clientFiles.cert, PGSSLKEY: clientFiles.key })
            }
          ),
          (output) => output.trimEnd()
        )
    }
  })

// What still runs when the process ends is ended with it.
const children = new Set<ChildProcess.ChildProcess>()
process.once("exit", () => {
  for (const child of children) child.kill("SIGKILL")
})

const pause = (millis: number): Effect.Effect<void> =>
  Effect.async((resume) => {
    const timer = setTimeout(() => resume(Effect.void), millis)
    return Effect.sync(() => clearTimeout(timer))
  })

const freePort: Effect.Effect<number, PostgresServerError> = Effect.async((resume) => {
  const server = Net.createServer()
  server.once("error", (error) => resume(new PostgresServerError({ description: error.message })))
  server.listen(0, host, () => {
    const address = server.address()
    server.close(() =>
      resume(
        typeof address === "object" && address !== null
          ? Effect.succeed(address.port)
          : new PostgresServerError({ description: "no free port" })
      )
    )
  })
})
