/**
 * DocumentDB, the engine for MongoDB's commands in PostgreSQL, and a gateway of our own that speaks MongoDB's wire
 * protocol to it. It is neither MongoDB nor the product's gateway: change streams it has not.
 *
 * The programs are Debian's, of its suite `sid`, unpacked into a folder of the repository's cache with all the libraries
 * that they need, and run by the loader of that folder: nothing of the machine is changed, and no root is needed.
 */
import * as ChildProcess from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import * as Bson from "bson"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import Pg from "pg"
import * as Install from "./Install.ts"
import { type Command, CommandError, type Doc, deserializeExactly, type Peer, serve } from "./internal/mongoWire.ts"
import * as PostgresServer from "./PostgresServer.ts"

/** It could not be installed or started. */
export class DocumentDbServerError extends Data.TaggedError("DocumentDbServerError")<{
  readonly description: string
  readonly log?: string
}> {
  override get message(): string {
    return this.log === undefined ? this.description : `${this.description}\n${this.log}`
  }
}

// ---- installation ------------------------------------------------------------------------------------------------------

const folder = (): string => Install.path("documentdb")
const marker = (): string => Path.join(folder(), ".installed.json")
const programs = (root: string): string => Path.join(root, "tree/usr/lib/postgresql/18/bin")

/** Whether it is there, whole. */
export const isInstalled = (): boolean => Fs.existsSync(marker())

/** The addresses of Debian's archive that the machine's own apt uses. */
const mirrors = (): ReadonlyArray<string> => {
  const files = ["/etc/apt/sources.list"]
  try {
    for (const name of Fs.readdirSync("/etc/apt/sources.list.d")) files.push(Path.join("/etc/apt/sources.list.d", name))
  } catch {
    // there is none
  }
  const found = files.flatMap((file) => {
    try {
      const text = Fs.readFileSync(file, "utf8").replace(/^\s*#.*$/gm, "")
      return [...text.matchAll(/https?:\/\/[^\s\]]+/g)].map((match) => match[0].replace(/\/$/, ""))
    } catch {
      return []
    }
  })
  const archives = found.filter((url) => /\/debian$/.test(url))
  return archives.length > 0 ? archives : ["http://deb.debian.org/debian"]
}

const run = (
  program: string,
  argv: ReadonlyArray<string>,
  environment: Readonly<Record<string, string>> = {}
): Effect.Effect<string, DocumentDbServerError> =>
  Effect.async((resume) => {
    const child = ChildProcess.spawn(program, argv, {
      env: { ...process.env, ...environment },
      stdio: ["ignore", "pipe", "pipe"]
    })
    let output = ""
    const collect = (chunk: Buffer): void => {
      output = (output + chunk.toString("utf8")).slice(-20_000)
    }
    child.stdout.on("data", collect)
    child.stderr.on("data", collect)
    child.on("error", (error) => resume(new DocumentDbServerError({ description: error.message })))
    child.on("close", (code) =>
      resume(
        code === 0
          ? Effect.succeed(output)
          : new DocumentDbServerError({ description: `${program} ended with ${code}`, log: output.slice(-2_000) })
      )
    )
    return Effect.sync(() => child.kill("SIGKILL"))
  })

/** A program that is started by the loader and with the libraries of its own folder. */
const wrap = (root: string, name: string): void => {
  const file = Path.join(programs(root), name)
  const libraries = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/postgresql/18/lib",
    "usr/lib/x86_64-linux-gnu/blas",
    "usr/lib/x86_64-linux-gnu/lapack"
  ].map((path) => `$tree/${path}`)
  Fs.renameSync(file, `${file}.program`)
  // the folder may be moved: it is found from where the script is
  const script = [
    "#!/bin/sh",
    'tree=$(cd "$(dirname "$0")/../../../../.." && pwd)',
    `exec "$tree/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "${libraries.join(":")}" ` +
      `--argv0 "$0" "$0.program" "$@"`,
    ""
  ].join("\n")
  Fs.writeFileSync(file, script, { mode: 0o755 })
}

/**
 * Downloads and unpacks it (140 MB; a minute), unless it is there. It needs `apt-get` and `dpkg-deb` of a Debian on x86-64,
 * and neither root nor a change of the machine: apt gets a configuration, a state and a cache of its own.
 */
export const install: Effect.Effect<void, DocumentDbServerError> = Effect.suspend(() => {
  if (isInstalled()) return Effect.void
  if (process.platform !== "linux" || process.arch !== "x64") {
    return new DocumentDbServerError({ description: "DocumentDB is unpacked from Debian's packages for x86-64 alone" })
  }
  const target = folder()
  const made = `${target}.${process.pid}.new`
  const tree = Path.join(made, "tree")
  const apt = Path.join(made, "apt")
  const work = Effect.gen(function* () {
    yield* Effect.sync(() => {
      for (const path of [
        tree,
        ...["state/lists/partial", "cache/archives/partial", "sources"].map((at) => Path.join(apt, at))
      ]) {
        Fs.mkdirSync(path, { recursive: true })
      }
      Fs.writeFileSync(Path.join(apt, "state/status"), "")
      Fs.writeFileSync(
        Path.join(apt, "sources/sid.sources"),
        [
          "Types: deb",
          `URIs: ${mirrors()[0]}`,
          "Suites: sid",
          "Components: main",
          "Architectures: amd64",
          "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg",
          ""
        ].join("\n")
      )
      Fs.writeFileSync(
        Path.join(apt, "apt.conf"),
        [
          `Dir::State "${apt}/state";`,
          `Dir::State::status "${apt}/state/status";`,
          `Dir::Cache "${apt}/cache";`,
          'Dir::Etc::sourcelist "/dev/null";',
          `Dir::Etc::sourceparts "${apt}/sources";`,
          'Acquire::Languages "none";',
          `APT::Sandbox::User "${Os.userInfo().username}";`,
          'APT::Keep-Downloaded-Packages "true";',
          'Debug::NoLocking "true";',
          ""
        ].join("\n")
      )
    })
    const environment = { APT_CONFIG: Path.join(apt, "apt.conf"), DEBIAN_FRONTEND: "noninteractive" }
    yield* run("apt-get", ["update"], environment)
    // no package counts as installed, so that all that it needs comes too, the C library with it
    yield* run(
      "apt-get",
      ["install", "--yes", "--no-install-recommends", "--download-only", "postgresql-18-documentdb"],
      environment
    )
    const archives = Path.join(apt, "cache/archives")
    const packages = Fs.readdirSync(archives).filter((name) => name.endsWith(".deb"))
    yield* Effect.forEach(packages, (name) => run("dpkg-deb", ["-x", Path.join(archives, name), tree]), {
      discard: true
    })
    yield* Effect.sync(() => {
      const extensions = Path.join(tree, "usr/share/postgresql/18/extension")
      // Debian's scripts, which are not run here, would have linked these
      for (const name of Fs.readdirSync(extensions)) {
        const plain = /^(postgis.*)-3\.control$/.exec(name)?.[1]
        if (plain !== undefined) Fs.copyFileSync(Path.join(extensions, name), Path.join(extensions, `${plain}.control`))
      }
      for (const name of ["initdb", "postgres"]) wrap(made, name)
      Fs.rmSync(apt, { recursive: true, force: true })
      Fs.writeFileSync(Path.join(made, ".installed.json"), `${JSON.stringify(packages)}\n`)
      if (!isInstalled()) {
        Fs.rmSync(target, { recursive: true, force: true })
        Fs.renameSync(made, target)
      }
    })
  })
  return Effect.ensuring(
    work,
    Effect.sync(() => Fs.rmSync(made, { recursive: true, force: true, maxRetries: 5 }))
  )
})

// ---- the server --------------------------------------------------------------------------------------------------------

/** A running server. */
export interface DocumentDbServer {
  readonly host: string
  readonly port: number
  readonly url: string
  /** Transactions that are open, and cursors. */
  readonly counts: Effect.Effect<{
    readonly transactions: number
    readonly cursors: number
    readonly connections: number
  }>
}

interface Lent {
  readonly client: Pg.Client
}

interface OpenTransaction extends Lent {
  readonly number: string
}

interface OpenCursor {
  readonly database: string
  readonly lent: Lent | undefined
  readonly inTransaction: boolean
  continuation: string
}

interface Session {
  open: OpenTransaction | undefined
  ended: { readonly number: string; readonly committed: boolean } | undefined
}

const hex = (document: Doc): string =>
  `BSONHEX${Buffer.from(Bson.serialize(document, { ignoreUndefined: true })).toString("hex")}`

const unhex = (value: unknown): Doc =>
  typeof value === "string" && value.startsWith("BSONHEX") ? deserializeExactly(Buffer.from(value.slice(7), "hex")) : {}

const isDoc = (value: unknown): value is Doc => typeof value === "object" && value !== null && !Array.isArray(value)
const textOf = (value: unknown): string => (typeof value === "string" ? value : "")
const numberOf = (value: unknown): number | undefined => {
  if (typeof value === "number") return value
  if (value instanceof Bson.Int32 || value instanceof Bson.Double) return value.valueOf()
  return Bson.Long.isLong(value) ? value.toNumber() : undefined
}

/** The codes of MongoDB, as the engine's own errors have them. */
const codes: ReadonlyMap<string, readonly [number, string]> = new Map([
  ["M0001", [2, "BadValue"]],
  ["M001C", [11000, "DuplicateKey"]],
  ["23505", [11000, "DuplicateKey"]],
  ["57014", [50, "MaxTimeMSExpired"]],
  ["40001", [112, "WriteConflict"]],
  ["40P01", [112, "WriteConflict"]],
  ["25P02", [251, "NoSuchTransaction"]],
  ["0A000", [238, "NotImplemented"]]
])

const commandError = (error: unknown, inTransaction: boolean): CommandError => {
  if (error instanceof CommandError) return error
  const state = error instanceof Error && "code" in error ? textOf(error.code) : ""
  const message = error instanceof Error ? error.message : "it failed"
  const [code, name] = codes.get(state) ?? [8, "UnknownError"]
  const labels = inTransaction && (code === 112 || code === 251) ? ["TransientTransactionError"] : []
  return new CommandError(code, name, `${message} [${state}]`, labels)
}

/** A SQLSTATE that PostgreSQL has packed into a number. */
const unpacked = (code: number): string =>
  [0, 6, 12, 18, 24].map((shift) => String.fromCharCode(((code >> shift) & 0x3f) + 48)).join("")

/** What the engine does not know, or what is said in another way. */
const ours = new Set([
  ...["lsid", "$db", "$clusterTime", "txnNumber", "autocommit", "startTransaction", "stmtId", "apiVersion"],
  ...["readConcern", "writeConcern", "$readPreference", "maxTimeMS", "comment", "bypassDocumentValidation"]
])

/** Starts it for the life of the scope; it is ready within seconds. */
export const make: Effect.Effect<DocumentDbServer, DocumentDbServerError, Scope.Scope> = Effect.gen(function* () {
  if (!isInstalled()) {
    return yield* new DocumentDbServerError({
      description: "DocumentDB is not installed: pnpm servers install documentdb"
    })
  }
  const failed = (error: PostgresServer.PostgresServerError) =>
    new DocumentDbServerError({ description: error.message })
  // The engine calls its own server over the loopback, without a password.
  const access = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const path = Fs.mkdtempSync(Path.join(Os.tmpdir(), `underlay-documentdb-${process.pid}-`))
      Fs.chmodSync(path, 0o755)
      const file = Path.join(path, "pg_hba.conf")
      Fs.writeFileSync(file, "host all all 127.0.0.1/32 trust\nhost all all ::1/128 trust\n", { mode: 0o644 })
      return file
    }),
    (file) => Effect.sync(() => Fs.rmSync(Path.dirname(file), { recursive: true, force: true }))
  )
  const postgres = yield* Effect.mapError(
    PostgresServer.make({
      programs: programs(folder()),
      settings: {
        shared_preload_libraries: "pg_cron,pg_documentdb_core,pg_documentdb",
        "cron.database_name": "postgres",
        "cron.use_background_workers": "on",
        hba_file: access
      }
    }),
    failed
  )
  yield* Effect.mapError(postgres.sql("create extension documentdb cascade;"), failed)

  const idle: Array<Lent> = []
  const all = new Set<Pg.Client>()
  const sessions = new Map<string, Session>()
  const cursors = new Map<string, OpenCursor>()
  yield* Effect.addFinalizer(() => Effect.promise(() => Promise.allSettled([...all].map((client) => client.end()))))

  const borrow = async (): Promise<Lent> => {
    const lent = idle.pop()
    if (lent !== undefined) return lent
    const client = new Pg.Client({ connectionString: postgres.url })
    client.on("error", () => all.delete(client))
    await client.connect()
    all.add(client)
    return { client }
  }
  const giveBack = (lent: Lent): void => {
    if (all.has(lent.client)) idle.push(lent)
  }

  const end = async (session: Session, how: "commit" | "rollback"): Promise<void> => {
    const { open } = session
    if (open === undefined) return
    session.open = undefined
    for (const [id, cursor] of cursors) if (cursor.lent === open) cursors.delete(id)
    try {
      await open.client.query(how)
      session.ended = { number: open.number, committed: how === "commit" }
    } catch (error) {
      session.ended = { number: open.number, committed: false }
      await open.client.query("rollback").catch(() => {})
      throw error
    } finally {
      giveBack({ client: open.client })
    }
  }

  const sessionOf = (body: Doc): { readonly key: string; readonly session: Session } | undefined => {
    const lsid = body["lsid"]
    const id = isDoc(lsid) ? lsid["id"] : undefined
    if (!(id instanceof Bson.Binary)) return undefined
    const key = id.toString("hex")
    const session = sessions.get(key) ?? { open: undefined, ended: undefined }
    sessions.set(key, session)
    return { key, session }
  }

  const transactionOf = async (command: Command): Promise<OpenTransaction | undefined> => {
    const { body } = command
    if (body["autocommit"] !== false) return undefined
    const known = sessionOf(body)
    if (known === undefined) throw new CommandError(2, "BadValue", "a transaction needs a session")
    const { session } = known
    const number = String(numberOf(body["txnNumber"]) ?? "")
    if (body["startTransaction"] === true) {
      await end(session, "rollback")
      const { client } = await borrow()
      await client.query("begin isolation level repeatable read")
      session.open = { client, number }
      return session.open
    }
    if (session.open?.number === number) return session.open
    if (session.ended?.number === number && session.ended.committed && command.name === "commitTransaction") {
      return undefined
    }
    throw new CommandError(251, "NoSuchTransaction", "there is no such transaction", ["TransientTransactionError"])
  }

  const written = (row: Doc): Doc => {
    const result = unhex(row["p_result"])
    const errors = Array.isArray(result["writeErrors"]) ? result["writeErrors"] : []
    if (errors.length === 0) return result
    return {
      ...result,
      writeErrors: errors.filter(isDoc).map((error) => {
        const state = unpacked(numberOf(error["code"]) ?? 0)
        const index = /Index '([^']*)'/.exec(textOf(error["errmsg"]))?.[1]
        return {
          ...error,
          code: codes.get(state)?.[0] ?? 8,
          errmsg: index === undefined ? error["errmsg"] : `E11000 duplicate key error index: ${index} `
        }
      })
    }
  }

  /** Runs one command; what it opens in its connection keeps that. */
  const perform = async (command: Command, lent: Lent, inTransaction: boolean): Promise<Doc> => {
    const { body, database, name } = command
    const spec: Doc = Object.fromEntries(Object.entries(body).filter(([key]) => !ours.has(key)))
    const collection = textOf(body[name])
    const limit = numberOf(body["maxTimeMS"])
    const query = async (text: string, ...values: ReadonlyArray<unknown>): Promise<Doc> => {
      if (limit !== undefined) await lent.client.query(`set statement_timeout = ${Math.ceil(limit)}`)
      try {
        const { rows } = await lent.client.query<Doc>(text, [...values])
        return rows[0] ?? {}
      } finally {
        if (limit !== undefined) await lent.client.query("set statement_timeout = 0").catch(() => {})
      }
    }
    const call = (what: string, ...more: ReadonlyArray<unknown>): Promise<Doc> =>
      query(
        `select * from documentdb_api.${what}($1, $2::documentdb_core.bson${more.map((_, at) => `, $${at + 3}`).join("")})`,
        database,
        hex(spec),
        ...more
      )
    const page = async (what: string): Promise<Doc> => {
      const row = await call(what)
      const answer = unhex(row["cursorpage"])
      const id = String(row["cursorid"])
      if (id !== "0" && typeof row["continuation"] === "string") {
        const keeps = row["persistconnection"] === true && !inTransaction
        cursors.set(id, {
          database,
          lent: keeps || inTransaction ? lent : undefined,
          inTransaction,
          continuation: row["continuation"]
        })
      }
      return answer
    }
    switch (name) {
      case "insert":
      case "update":
      case "delete":
        return written(
          await query(`select * from documentdb_api.${name}($1, $2::documentdb_core.bson)`, database, hex(spec))
        )
      case "findAndModify":
        return unhex((await call("find_and_modify"))["p_result"])
      case "find":
        return page("find_cursor_first_page")
      case "aggregate": {
        const stages = Array.isArray(body["pipeline"]) ? body["pipeline"] : []
        if (isDoc(stages[0]) && "$changeStream" in stages[0]) {
          throw new CommandError(40573, "Location40573", "DocumentDB has no change streams")
        }
        return page("aggregate_cursor_first_page")
      }
      case "listIndexes": {
        const { collection_id: id } = await query(
          "select collection_id from documentdb_api_catalog.collections where database_name = $1 and collection_name = $2",
          database,
          collection
        )
        if (id === undefined) throw new CommandError(26, "NamespaceNotFound", "ns does not exist")
        return page("list_indexes_cursor_first_page")
      }
      case "listCollections":
        return page("list_collections_cursor_first_page")
      case "count":
        return unhex((await call("count_query"))["document"])
      case "distinct":
        return unhex((await call("distinct_query"))["document"])
      case "createIndexes": {
        // at once, and not by the job that builds them every two seconds
        await query("select documentdb_api.create_collection($1, $2)", database, collection)
        const row = await query(
          "select documentdb_api_internal.create_indexes_non_concurrently($1, $2::documentdb_core.bson, true) as r",
          database,
          hex(spec)
        )
        const raw = unhex(row["r"])["raw"]
        const shard = isDoc(raw) ? raw["defaultShard"] : undefined
        return { ...(isDoc(shard) ? shard : {}), ok: 1 }
      }
      case "dropIndexes": {
        const row = await query("call documentdb_api.drop_indexes($1, $2::documentdb_core.bson)", database, hex(spec))
        const answer = unhex(row["retval"])
        if (answer["ok"] === true) return { ok: 1 }
        throw new CommandError(27, "IndexNotFound", textOf(answer["errmsg"]))
      }
      case "create":
        await call("create_collection_view")
        return { ok: 1 }
      case "drop":
        await query("select documentdb_api.drop_collection($1, $2)", database, collection)
        return { ok: 1 }
      case "dropDatabase":
        await query("select documentdb_api.drop_database($1)", database)
        return { ok: 1 }
      default:
        throw new CommandError(59, "CommandNotFound", `no such command: '${name}'`)
    }
  }

  const closeCursor = async (id: string): Promise<boolean> => {
    const cursor = cursors.get(id)
    if (cursor === undefined) return false
    cursors.delete(id)
    const lent = cursor.lent ?? (await borrow())
    try {
      await lent.client.query("select documentdb_api_internal.delete_cursors($1::bigint[])", [[id]])
    } catch {
      // it was none that the engine keeps
    }
    if (cursor.lent !== undefined && !cursor.inTransaction) {
      await lent.client.query("close all").catch(() => {})
    }
    if (!cursor.inTransaction) giveBack(lent)
    return true
  }

  const more = async (command: Command): Promise<Doc> => {
    const { body } = command
    const id = String(body["getMore"])
    const cursor = cursors.get(id)
    if (cursor === undefined) throw new CommandError(43, "CursorNotFound", `cursor id ${id} not found`)
    const lent = cursor.lent ?? (await borrow())
    const { batchSize, collection, getMore } = body
    try {
      const { rows } = await lent.client.query<Doc>(
        "select * from documentdb_api.cursor_get_more($1, $2::documentdb_core.bson, $3::documentdb_core.bson)",
        [
          cursor.database,
          hex({ getMore, collection, ...(batchSize === undefined ? {} : { batchSize }) }),
          cursor.continuation
        ]
      )
      const row = rows[0] ?? {}
      if (typeof row["continuation"] === "string") cursor.continuation = row["continuation"]
      else {
        cursors.delete(id)
        if (cursor.lent !== undefined && !cursor.inTransaction) giveBack(lent)
      }
      return unhex(row["cursorpage"])
    } finally {
      if (cursor.lent === undefined) giveBack(lent)
    }
  }

  const hello = (address: string, peer: Peer): Doc => ({
    helloOk: true,
    ismaster: true,
    isWritablePrimary: true,
    // drivers give transactions to members of a set alone
    setName: "documentdb",
    setVersion: 1,
    hosts: [address],
    primary: address,
    me: address,
    secondary: false,
    maxBsonObjectSize: 16_777_216,
    maxMessageSizeBytes: 48_000_000,
    maxWriteBatchSize: 100_000,
    localTime: new Date(),
    logicalSessionTimeoutMinutes: 30,
    connectionId: peer.id,
    minWireVersion: 0,
    maxWireVersion: 21,
    readOnly: false,
    ok: 1
  })

  const listener = yield* serve(
    async (command, peer): Promise<Doc> => {
      const { body, name } = command
      if (name === "hello" || name.toLowerCase() === "ismaster") return hello(`${listener.host}:${listener.port}`, peer)
      if (name === "ping") return { ok: 1 }
      if (name === "buildInfo" || name === "buildinfo") return { version: "7.0.0", versionArray: [7, 0, 0, 0], ok: 1 }
      const session = sessionOf(body)?.session
      const inTransaction = body["autocommit"] === false
      try {
        if (name === "endSessions") {
          const ids = Array.isArray(body["endSessions"]) ? body["endSessions"] : []
          for (const lsid of ids) {
            const known = sessionOf({ lsid })
            if (known === undefined) continue
            await end(known.session, "rollback")
            sessions.delete(known.key)
          }
          return { ok: 1 }
        }
        if (name === "commitTransaction" || name === "abortTransaction") {
          const open = await transactionOf(command)
          if (open !== undefined && session !== undefined) {
            await end(session, name === "commitTransaction" ? "commit" : "rollback")
          }
          return { ok: 1 }
        }
        if (name === "killCursors") {
          const ids = Array.isArray(body["cursors"]) ? body["cursors"] : []
          const cursorsKilled: Array<unknown> = []
          for (const id of ids) if (await closeCursor(String(id))) cursorsKilled.push(id)
          return { cursorsKilled, cursorsNotFound: [], cursorsAlive: [], cursorsUnknown: [], ok: 1 }
        }
        if (name === "getMore") return await more(command)
        const open = await transactionOf(command)
        if (open !== undefined) {
          const reply = await perform(command, open, true)
          if ("writeErrors" in reply && session !== undefined) await end(session, "rollback")
          return reply
        }
        const lent = await borrow()
        let kept = false
        try {
          const reply = await perform(command, lent, false)
          kept = [...cursors.values()].some((cursor) => cursor.lent === lent)
          return reply
        } finally {
          if (!kept) giveBack(lent)
        }
      } catch (error) {
        const failure = commandError(error, inTransaction)
        if (inTransaction && session !== undefined) await end(session, "rollback").catch(() => {})
        throw failure
      }
    },
    undefined,
    deserializeExactly
  )
  return {
    host: listener.host,
    port: listener.port,
    url: `mongodb://${listener.host}:${listener.port}/?directConnection=true`,
    counts: Effect.sync(() => ({
      transactions: [...sessions.values()].filter(({ open }) => open !== undefined).length,
      cursors: cursors.size,
      connections: listener.connections()
    }))
  }
})
