/**
 * The extension pgvector for the PostgreSQL of this machine, built of Debian's source package, and a server that has it.
 * Debian's own binary package is for a newer libc, so there is no way round the compiler.
 */
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Install from "./Install.ts"
import * as Need from "./Need.ts"
import * as PostgresServer from "./PostgresServer.ts"

/** pgvector could not be had, built or installed. */
export class PgVectorError extends Data.TaggedError("PgVectorError")<{
  readonly description: string
  readonly log?: string
}> {
  override get message(): string {
    return this.log === undefined ? this.description : `${this.description}\n${this.log}`
  }
}

/** The release of Debian that the source is of. */
const release = "trixie"

const limit = 240_000

const run = (file: string, argv: ReadonlyArray<string>, cwd: string): Effect.Effect<string, PgVectorError> =>
  Effect.async((resume) => {
    const child = ChildProcess.spawn(file, argv, {
      cwd,
      env: { ...process.env, LC_ALL: "C.UTF-8" },
      stdio: ["ignore", "pipe", "pipe"],
      // a group of its own, so that what a compiler started goes with it
      detached: true
    })
    let log = ""
    const collect = (chunk: Buffer) => {
      log = (log + chunk.toString("utf8")).slice(-4_000)
    }
    child.stdout.on("data", collect)
    child.stderr.on("data", collect)
    const kill = () => {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL")
      } catch {
        // gone already
      }
    }
    const timer = setTimeout(kill, limit)
    const failed = (why: string) => {
      clearTimeout(timer)
      resume(new PgVectorError({ description: `${Path.basename(file)} ${argv.join(" ")}: ${why}`, log }))
    }
    child.on("error", (error) => failed(error.message))
    child.on("close", (code, signal) => {
      if (code !== 0) return failed(signal === null ? `it ended with ${code}` : `it was ended by ${signal}`)
      clearTimeout(timer)
      resume(Effect.succeed(log))
    })
    return Effect.sync(() => {
      clearTimeout(timer)
      kill()
    })
  })

// The source package is fetched with lists of its own: the machine's sources are not touched.
const build = (folder: string): Effect.Effect<string, PgVectorError> =>
  Effect.gen(function* () {
    const lists = Path.join(folder, "lists")
    const sources = Path.join(folder, "sources.list")
    yield* Effect.sync(() => {
      Fs.mkdirSync(Path.join(lists, "partial"), { recursive: true })
      Fs.mkdirSync(Path.join(folder, "cache", "archives", "partial"), { recursive: true })
      Fs.writeFileSync(
        sources,
        "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " +
          `http://deb.debian.org/debian ${release} main\n`
      )
    })
    const options = [
      ...["-o", `Dir::Etc::sourcelist=${sources}`, "-o", "Dir::Etc::sourceparts=/dev/null"],
      ...["-o", `Dir::State::lists=${lists}`, "-o", `Dir::Cache=${Path.join(folder, "cache")}`]
    ]
    yield* run("apt-get", [...options, "update"], folder)
    yield* run("apt-get", [...options, "source", "--only-source", "pgvector"], folder)
    const source = Fs.readdirSync(folder).find((name) => /^pgvector-\d/.test(name))
    if (source === undefined) {
      return yield* new PgVectorError({ description: "the source package of pgvector holds no pgvector-<version>" })
    }
    const tree = Path.join(folder, source)
    const config = Need.program("pg_config", Need.postgresFolders())
    if (config === undefined) {
      return yield* new PgVectorError({
        description: "pg_config is not installed: apt-get install postgresql-server-dev-15"
      })
    }
    // Without OPTFLAGS it would be built for this very processor.
    yield* run("make", ["OPTFLAGS=", "with_llvm=no", `PG_CONFIG=${config}`], tree)
    return tree
  })

const major = (): string => Path.basename(Path.dirname(Need.postgresFolders()[0] ?? "/0/bin"))

/** Builds pgvector, unless that was done, and gives the folder that it was built in. */
const built: Effect.Effect<string, PgVectorError> = Effect.suspend(() => {
  const place = Install.path("pgvector", `postgresql-${major()}`)
  const made = Path.join(place, "tree", "vector.so")
  if (Fs.existsSync(made)) return Effect.succeed(Path.join(place, "tree"))
  return Effect.acquireUseRelease(
    Effect.sync(() => {
      Fs.mkdirSync(place, { recursive: true })
      return Fs.mkdtempSync(Path.join(place, "build-"))
    }),
    (folder) =>
      Effect.flatMap(build(folder), (tree) =>
        Effect.try({
          // Two processes may have built it at once; whose tree it is makes no difference.
          try: () => {
            if (!Fs.existsSync(made)) Fs.renameSync(tree, Path.join(place, "tree"))
            return Path.join(place, "tree")
          },
          catch: (cause) => new PgVectorError({ description: `the built tree could not be kept: ${String(cause)}` })
        })
      ),
    (folder) => Effect.sync(() => Fs.rmSync(folder, { recursive: true, force: true }))
  )
})

/** Builds and installs pgvector for the PostgreSQL of this machine, unless it is there. It takes about half a minute. */
export const install: Effect.Effect<void, PgVectorError> = Effect.suspend(() => {
  if (Need.hasPgVector()) return Effect.void
  if (process.getuid?.() !== 0) {
    // PostgreSQL before 18 looks for extensions in its own folder only.
    return new PgVectorError({
      description:
        "pgvector is not installed, and only root can put it into PostgreSQL's folder: " +
        "install postgresql-<version>-pgvector, or run this once as root"
    })
  }
  return Effect.flatMap(built, (tree) => {
    const config = Need.program("pg_config", Need.postgresFolders())
    return config === undefined
      ? new PgVectorError({ description: "pg_config is not installed: apt-get install postgresql-server-dev-15" })
      : Effect.asVoid(run("make", ["install", "with_llvm=no", `PG_CONFIG=${config}`], tree))
  })
})

/** Starts a server that has pgvector, installing it first if need be; the extension itself is yet to be created. */
export const make = (
  options: PostgresServer.PostgresServerOptions = {}
): Effect.Effect<PostgresServer.PostgresServer, PgVectorError | PostgresServer.PostgresServerError, Scope.Scope> =>
  Effect.zipRight(install, PostgresServer.make(options))
