/**
 * A double of MongoDB in this process: its wire protocol over queries, updates and aggregations of `mingo`, with
 * cursors, unique indexes, retryable writes, transactions of snapshot isolation, change streams and SCRAM-SHA-256. It
 * tests what speaks to MongoDB; it is not MongoDB, and knows no TTL, text or geo index, no `$out` and no `$merge`. Of
 * numbers it keeps the value, not whether they were int, long or double.
 */
import * as Crypto from "node:crypto"
import * as Bson from "bson"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { Aggregator, Query, updateOne } from "mingo"
import type { Modifier, PipelineStage } from "mingo/updater"
import { type Command, CommandError, type Doc, deserialize, type Peer, pause, serve } from "./internal/mongoWire.ts"

/** How the double is to be. */
export interface MongoWireServerOptions {
  /** The port on which it listens. Default: a free one. */
  readonly port?: number | undefined
  /** A replica set of one (default) has transactions, change streams and retryable writes; a standalone has not. */
  readonly topology?: "replicaSet" | "standalone" | undefined
  /** Who may use it. Default: everybody. */
  readonly user?: { readonly name: string; readonly password: string } | undefined
}

/** What is done to a command instead of, or besides, answering it. */
export interface Fault {
  /** Names of commands: `find`, `insert`, `commitTransaction`, … */
  readonly commands: ReadonlyArray<string>
  /** How often. Default: once. */
  readonly times?: number | undefined
  /** How many such commands are spared first. */
  readonly skip?: number | undefined
  /** Waits first; a command whose `maxTimeMS` is shorter fails with 50, one whose client goes is not run. */
  readonly delayMillis?: number | undefined
  /** Waits longer than the command's `maxTimeMS` says, and runs it then. */
  readonly ignoreMaxTime?: boolean | undefined
  /** Runs the command before it fails: the server did it, and the answer says otherwise or is lost. */
  readonly after?: boolean | undefined
  /** Resets the connection instead of answering. */
  readonly reset?: boolean | undefined
  readonly code?: number | undefined
  readonly codeName?: string | undefined
  readonly message?: string | undefined
  readonly labels?: ReadonlyArray<string> | undefined
  /** Added to an answer that is otherwise good. */
  readonly writeConcernError?: Doc | undefined
}

/** What the double has open, and what it was asked. */
export interface MongoWireCounts {
  readonly connections: number
  readonly cursors: number
  readonly transactions: number
  readonly sessions: number
  /** How often each command was run, by name. */
  readonly commands: Readonly<Record<string, number>>
}

/** A running double. */
export interface MongoWireServer {
  readonly host: string
  readonly port: number
  /** With `directConnection`, so that a proxy can stand before it. */
  readonly url: string
  readonly counts: Effect.Effect<MongoWireCounts>
  readonly fail: (fault: Fault) => Effect.Effect<void>
  /** No fault is left. */
  readonly calm: Effect.Effect<void>
  /** Forgets the changes so far: who resumes behind them fails with 286. */
  readonly forgetChanges: Effect.Effect<void>
  /** Forgets all cursors, as a server does that was started again. */
  readonly forgetCursors: Effect.Effect<void>
  readonly resetAll: Effect.Effect<void>
  /** Stops listening and resets all connections, as when the process is killed; `start` comes back with its data. */
  readonly kill: Effect.Effect<void>
  readonly start: Effect.Effect<void>
}

interface Entry {
  readonly doc: Doc
  readonly version: number
}

interface Index {
  readonly name: string
  readonly key: Doc
  readonly spec: Doc
}

interface Collection {
  readonly docs: Map<string, Entry>
  readonly indexes: Array<Index>
}

interface Change {
  readonly seq: number
  readonly database: string
  readonly collection: string
  readonly event: Doc
}

interface Transaction {
  readonly session: string
  readonly number: string
  readonly started: number
  readonly store: Map<string, Collection>
  readonly written: Map<string, { readonly ns: string; readonly key: string }>
  readonly changes: Array<Omit<Change, "seq">>
}

interface Session {
  /** The outcome of the last transaction. */
  ended: { readonly number: string; readonly how: "committed" | "aborted" } | undefined
  open: Transaction | undefined
  retryable: { readonly number: string; readonly reply: Doc } | undefined
}

interface OpenCursor {
  readonly ns: string
  readonly session: string | undefined
  /** What is left, or what comes. */
  readonly rest: Array<Doc>
  readonly changes?: ChangeCursor
}

interface ChangeCursor {
  seq: number
  readonly wants: (change: Change) => boolean
  readonly present: (change: Change) => ReadonlyArray<Doc>
}

const isDoc = (value: unknown): value is Doc =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !("_bsontype" in value)
const doc = (value: unknown): Doc => (isDoc(value) ? value : {})
const list = (value: unknown): ReadonlyArray<unknown> => (Array.isArray(value) ? value : [])
const docs = (value: unknown): Array<Doc> => list(value).filter(isDoc)
const text = (value: unknown): string => (typeof value === "string" ? value : "")
const number = (value: unknown): number | undefined =>
  typeof value === "number" ? value : Bson.Long.isLong(value) ? value.toNumber() : undefined

const clone = (value: Doc): Doc => deserialize(Bson.serialize(value, { ignoreUndefined: true }))

/** A key by which values are the same that MongoDB takes for the same. */
const keyOf = (value: unknown): string =>
  typeof value === "string" || typeof value === "number"
    ? `${typeof value}:${value}`
    : value instanceof Bson.ObjectId
      ? `id:${value.toHexString()}`
      : Buffer.from(Bson.serialize({ v: value === undefined ? null : value })).toString("base64")

const at = (value: unknown, path: string): unknown => {
  let found: unknown = value
  for (const part of path.split(".")) {
    if (typeof found !== "object" || found === null) return undefined
    found = Reflect.get(found, part)
  }
  return found
}

const isModifier = (update: unknown): update is Modifier<Doc> =>
  isDoc(update) && Object.keys(update).length > 0 && Object.keys(update).every((key) => key.startsWith("$"))
const isStages = (update: unknown): update is Array<PipelineStage> => Array.isArray(update) && update.every(isDoc)
const isNumbers = (value: unknown): value is Record<string, 1 | -1> => isDoc(value)

const badValue = (message: string) => new CommandError(2, "BadValue", message)
const transient = "TransientTransactionError"
const writeConflict = () =>
  new CommandError(112, "WriteConflict", "Caused by :: Write conflict during plan execution", [transient])

/** A document is held by a transaction: who writes outside of one waits for it. */
class Held extends Error {}

const tokenOf = (seq: number): Doc => ({ _data: seq.toString(16).padStart(16, "0").toUpperCase() })
const seqOf = (token: unknown): number => {
  const data = text(doc(token)["_data"])
  if (!/^[0-9A-F]{16}$/.test(data)) {
    throw new CommandError(260, "InvalidResumeToken", "the resume token is not one of this server")
  }
  return Number.parseInt(data, 16)
}

const withoutSession = new Set(["hello", "ismaster", "isMaster", "ping", "buildInfo", "buildinfo", "endSessions"])
const withoutUser = new Set(["hello", "ismaster", "isMaster", "saslStart", "saslContinue", "buildInfo", "buildinfo"])

/** Starts a double for the life of the scope. */
export const make = (options: MongoWireServerOptions = {}): Effect.Effect<MongoWireServer, never, Scope.Scope> =>
  Effect.gen(function* () {
    const isSet = options.topology !== "standalone"
    const store = new Map<string, Collection>()
    const sessions = new Map<string, Session>()
    const cursors = new Map<string, OpenCursor>()
    const held = new Map<string, Transaction>()
    const counted = new Map<string, number>()
    const faults: Array<{ readonly fault: Fault; left: number; skip: number }> = []
    let changes: Array<Change> = []
    let forgotten = 0
    let seq = 0
    let nextCursor = 1
    const waiting = new Set<() => void>()

    const wake = (): void => {
      for (const resume of [...waiting]) resume()
      waiting.clear()
    }

    // Collections, as a command sees them: the committed ones, or those of its transaction.

    const copy = (collection: Collection): Collection => ({
      docs: new Map(collection.docs),
      indexes: [...collection.indexes]
    })

    /** The collections of one command. */
    const viewOf = (transaction: Transaction | undefined) => {
      const target = transaction === undefined ? store : transaction.store
      const find = (ns: string): Collection | undefined => target.get(ns)
      const need = (ns: string): Collection => {
        const found = find(ns)
        if (found !== undefined) return found
        const made: Collection = { docs: new Map(), indexes: [{ name: "_id_", key: { _id: 1 }, spec: { v: 2 } }] }
        target.set(ns, made)
        return made
      }
      const claim = (ns: string, key: string): void => {
        const name = `${ns}\u0000${key}`
        const holder = held.get(name)
        if (transaction === undefined) {
          if (holder !== undefined) throw new Held()
          return
        }
        const committed = store.get(ns)?.docs.get(key)
        const mine = transaction.written.has(name)
        const changed = committed !== undefined && committed.version > transaction.started
        const removed = committed === undefined && !mine && transaction.store.get(ns)?.docs.has(key) === true
        if ((holder !== undefined && holder !== transaction) || (!mine && (changed || removed))) throw writeConflict()
        held.set(name, transaction)
        transaction.written.set(name, { ns, key })
      }
      const note = (ns: string, event: Doc): void => {
        const dot = ns.indexOf(".")
        const change = { database: ns.slice(0, dot), collection: ns.slice(dot + 1), event }
        if (transaction === undefined) changes.push({ ...change, seq: ++seq })
        else transaction.changes.push(change)
      }
      const unique = (ns: string, key: string, next: Doc): void => {
        const collection = need(ns)
        for (const index of collection.indexes) {
          if (index.spec["unique"] !== true) continue
          const paths = Object.keys(index.key)
          const partial = index.spec["partialFilterExpression"]
          const applies = (candidate: Doc): boolean =>
            (!isDoc(partial) || new Query(partial).test(candidate)) &&
            (index.spec["sparse"] !== true || paths.some((path) => at(candidate, path) !== undefined))
          if (!applies(next)) continue
          const wanted = paths.map((path) => keyOf(at(next, path))).join("\u0000")
          for (const [other, entry] of collection.docs) {
            if (other === key || !applies(entry.doc)) continue
            if (paths.map((path) => keyOf(at(entry.doc, path))).join("\u0000") === wanted) {
              throw duplicate(ns, index, next)
            }
          }
        }
      }
      const duplicate = (ns: string, index: Index, of: Doc) => {
        const value = Object.fromEntries(Object.keys(index.key).map((path) => [path, at(of, path) ?? null]))
        return new CommandError(
          11000,
          "DuplicateKey",
          `E11000 duplicate key error collection: ${ns} index: ${index.name} dup key: ${JSON.stringify(value)}`,
          [],
          { keyPattern: index.key, keyValue: value }
        )
      }
      const insert = (ns: string, given: Doc): void => {
        const next: Doc = "_id" in given ? given : { _id: new Bson.ObjectId(), ...given }
        const key = keyOf(next["_id"])
        const collection = need(ns)
        claim(ns, key)
        if (collection.docs.has(key)) {
          throw duplicate(ns, { name: "_id_", key: { _id: 1 }, spec: {} }, next)
        }
        unique(ns, key, next)
        note(ns, { operationType: "insert", documentKey: { _id: next["_id"] }, fullDocument: next })
        collection.docs.set(key, { doc: next, version: seq })
      }
      const replace = (ns: string, before: Doc, next: Doc, how: "update" | "replace"): void => {
        const key = keyOf(before["_id"])
        if (keyOf(next["_id"]) !== key) {
          throw new CommandError(66, "ImmutableField", "the (immutable) field '_id' was found to have been altered")
        }
        claim(ns, key)
        unique(ns, key, next)
        const updatedFields: Doc = {}
        for (const [name, value] of Object.entries(next)) {
          if (keyOf(value) !== keyOf(before[name]) || !(name in before)) updatedFields[name] = value
        }
        note(ns, {
          operationType: how,
          documentKey: { _id: before["_id"] },
          ...(how === "replace" ? { fullDocument: next } : {}),
          ...(how === "update"
            ? {
                updateDescription: {
                  updatedFields,
                  removedFields: Object.keys(before).filter((name) => !(name in next)),
                  truncatedArrays: []
                }
              }
            : {})
        })
        need(ns).docs.set(key, { doc: next, version: seq })
      }
      const remove = (ns: string, before: Doc): void => {
        const key = keyOf(before["_id"])
        claim(ns, key)
        note(ns, { operationType: "delete", documentKey: { _id: before["_id"] } })
        need(ns).docs.delete(key)
      }
      const matching = (ns: string, filter: Doc, sort?: unknown, limit = 0): Array<Doc> => {
        const collection = find(ns)
        if (collection === undefined) return []
        const id = filter["_id"]
        if ("_id" in filter && Object.keys(filter).length === 1 && (!isDoc(id) || id instanceof Bson.ObjectId)) {
          if (!(id instanceof RegExp)) {
            const entry = collection.docs.get(keyOf(id))
            return entry === undefined ? [] : [entry.doc]
          }
        }
        const all = [...collection.docs.values()].map((entry) => entry.doc)
        const found = query(filter).find<Doc>(all)
        if (isNumbers(sort) && Object.keys(sort).length > 0) found.sort(sort)
        if (limit > 0) found.limit(limit)
        return found.all()
      }
      return { find, need, insert, replace, remove, matching, note }
    }
    type View = ReturnType<typeof viewOf>

    const query = (filter: Doc, settings: Doc = {}): Query<Doc> => {
      try {
        return new Query<Doc>(filter, { ...(isDoc(settings["let"]) ? { variables: settings["let"] } : {}) })
      } catch (error) {
        throw badValue(error instanceof Error ? error.message : "the filter is wrong")
      }
    }

    /** The document as the update makes it. */
    const updated = (
      before: Doc,
      filter: Doc,
      update: unknown,
      arrayFilters: ReadonlyArray<Doc>,
      upsert: boolean
    ): Doc => {
      const next = clone(before)
      if (isStages(update)) {
        const target = [next]
        updateOne(target, {}, update)
        return target[0] ?? next
      }
      if (!isModifier(update)) {
        const replacement = doc(update)
        if (Object.keys(replacement).some((key) => key.startsWith("$"))) {
          throw new CommandError(9, "FailedToParse", "an update has operators only, a replacement has none")
        }
        return "_id" in before ? { ...clone(replacement), _id: before["_id"] } : clone(replacement)
      }
      const { $setOnInsert, ...operators }: Doc = { ...update }
      const set = upsert && isDoc($setOnInsert) ? { ...$setOnInsert, ...doc(operators["$set"]) } : operators["$set"]
      const all = set === undefined ? operators : { ...operators, $set: set }
      if (Object.keys(all).length === 0 || !isModifier(all)) return next
      const target = [next]
      try {
        updateOne(
          target,
          upsert ? {} : filter,
          all,
          arrayFilters.length === 0 ? {} : { arrayFilters: [...arrayFilters] }
        )
      } catch (error) {
        throw new CommandError(9, "FailedToParse", error instanceof Error ? error.message : "the update is wrong")
      }
      return target[0] ?? next
    }

    /** What an upsert starts from: what the filter says is equal. */
    const seed = (filter: Doc): Doc => {
      const made: Doc = {}
      const take = (part: Doc): void => {
        for (const [key, value] of Object.entries(part)) {
          if (key === "$and") for (const inner of docs(value)) take(inner)
          if (key.startsWith("$")) continue
          const equal = isDoc(value) && "$eq" in value ? value["$eq"] : value
          if (isDoc(equal) && Object.keys(equal).some((name) => name.startsWith("$"))) continue
          let target = made
          const parts = key.split(".")
          for (const name of parts.slice(0, -1)) {
            const inner = doc(target[name])
            target[name] = inner
            target = inner
          }
          target[parts[parts.length - 1] ?? key] = equal
        }
      }
      take(filter)
      return made
    }

    const writeError = (index: number, error: CommandError): Doc => ({
      index,
      code: error.code,
      errmsg: error.message,
      ...error.extra
    })

    /** Several statements of one write command: what is wrong with one is told with the others' success. */
    const statements = (
      body: Doc,
      all: ReadonlyArray<Doc>,
      inTransaction: boolean,
      run: (one: Doc, index: number) => void
    ): Array<Doc> => {
      const errors: Array<Doc> = []
      for (const [index, one] of all.entries()) {
        try {
          run(one, index)
        } catch (error) {
          if (!(error instanceof CommandError) || error.labels.includes(transient)) throw error
          errors.push(writeError(index, error))
          if (body["ordered"] !== false || inTransaction) break
        }
      }
      return errors
    }

    const cursorReply = (
      ns: string,
      found: Array<Doc>,
      batchSize: number | undefined,
      session: string | undefined,
      single = false,
      changes?: ChangeCursor
    ): Doc => {
      const rest = [...found]
      const firstBatch = rest.splice(0, batchSize ?? 101)
      if (changes === undefined && (rest.length === 0 || single)) {
        return { cursor: { firstBatch, id: Bson.Long.ZERO, ns }, ok: 1 }
      }
      const id = Bson.Long.fromNumber(nextCursor++)
      cursors.set(id.toString(), { ns, session, rest, ...(changes === undefined ? {} : { changes }) })
      return {
        cursor: {
          firstBatch,
          id,
          ns,
          ...(changes === undefined ? {} : { postBatchResumeToken: tokenOf(changes.seq) })
        },
        ok: 1
      }
    }

    // Change streams: the changes since a token, each shaped as it was asked for.

    const changeCursor = (
      database: string,
      collection: string | undefined,
      pipeline: ReadonlyArray<Doc>
    ): ChangeCursor => {
      if (!isSet) {
        throw new CommandError(40573, "Location40573", "The $changeStream stage is only supported on replica sets")
      }
      const stage = doc(pipeline[0]?.["$changeStream"])
      // As `DocumentSourceChangeStream::assertIsLegalSpecification` has it.
      const internal = ["admin", "config", "local"].includes(database)
      if (internal && !(database === "admin" && stage["allChangesForCluster"] === true)) {
        throw new CommandError(
          73,
          "InvalidNamespace",
          `$changeStream may not be opened on the internal ${database} database`
        )
      }
      const token = stage["resumeAfter"] ?? stage["startAfter"]
      const time = stage["startAtOperationTime"]
      const from = token !== undefined ? seqOf(token) : time instanceof Bson.Timestamp ? time.getHighBits() - 1 : seq
      if (from < forgotten) {
        throw new CommandError(
          286,
          "ChangeStreamHistoryLost",
          "Resume of change stream was not possible, as the resume point may no longer be in the oplog.",
          ["NonResumableChangeStreamError"]
        )
      }
      const later = new Aggregator([...pipeline.slice(1)])
      return {
        seq: from,
        wants: (change) =>
          stage["allChangesForCluster"] === true ||
          (change.database === database && (collection === undefined || change.collection === collection)),
        present: (change) => {
          const { updateDescription, ...event } = change.event
          const key = doc(event["documentKey"])["_id"]
          const full =
            event["operationType"] === "update" && text(stage["fullDocument"]) === "updateLookup"
              ? {
                  fullDocument: store.get(`${change.database}.${change.collection}`)?.docs.get(keyOf(key))?.doc ?? null
                }
              : {}
          const shown: Doc = {
            _id: tokenOf(change.seq),
            clusterTime: Bson.Timestamp.fromBits(0, change.seq),
            wallTime: new Date(),
            ...event,
            ...full,
            ns: { db: change.database, coll: change.collection },
            ...(updateDescription === undefined ? {} : { updateDescription })
          }
          return docs(later.run([clone(shown)]))
        }
      }
    }

    const moreChanges = async (
      cursor: OpenCursor,
      of: ChangeCursor,
      id: string,
      body: Doc,
      peer: Peer
    ): Promise<Doc> => {
      const limit = performance.now() + (number(body["maxTimeMS"]) ?? 1_000)
      const nextBatch: Array<Doc> = []
      for (;;) {
        if (of.seq < forgotten) {
          cursors.delete(id)
          throw new CommandError(286, "ChangeStreamHistoryLost", "the oplog no longer has it", [
            "NonResumableChangeStreamError"
          ])
        }
        let ended = false
        for (const change of changes) {
          if (change.seq <= of.seq) continue
          if (nextBatch.length >= (number(body["batchSize"]) ?? 1_000)) break
          of.seq = change.seq
          if (!of.wants(change)) continue
          nextBatch.push(...of.present(change))
          if (change.event["operationType"] === "drop") {
            nextBatch.push({ _id: tokenOf(change.seq), operationType: "invalidate" })
            ended = true
            break
          }
        }
        if (ended) {
          cursors.delete(id)
          return {
            cursor: { nextBatch, id: Bson.Long.ZERO, ns: cursor.ns, postBatchResumeToken: tokenOf(of.seq) },
            ok: 1
          }
        }
        const left = limit - performance.now()
        if (nextBatch.length > 0 || left <= 0 || peer.gone.aborted || !cursors.has(id)) break
        await new Promise<void>((resolve) => {
          const done = (): void => {
            clearTimeout(timer)
            waiting.delete(done)
            peer.gone.removeEventListener("abort", done)
            resolve()
          }
          const timer = setTimeout(done, left)
          waiting.add(done)
          peer.gone.addEventListener("abort", done)
        })
      }
      if (!cursors.has(id)) throw new CommandError(43, "CursorNotFound", `cursor id ${id} not found`)
      return {
        cursor: { nextBatch, id: Bson.Long.fromString(id), ns: cursor.ns, postBatchResumeToken: tokenOf(of.seq) },
        ok: 1
      }
    }

    // Transactions.

    const sessionOf = (body: Doc): { readonly key: string; readonly session: Session } | undefined => {
      const id = doc(body["lsid"])["id"]
      if (!(id instanceof Bson.Binary)) return undefined
      const key = id.toString("hex")
      const found = sessions.get(key)
      if (found !== undefined) return { key, session: found }
      const session: Session = { ended: undefined, open: undefined, retryable: undefined }
      sessions.set(key, session)
      return { key, session }
    }

    const end = (session: Session, how: "committed" | "aborted"): void => {
      const transaction = session.open
      if (transaction === undefined) return
      session.open = undefined
      session.ended = { number: transaction.number, how }
      for (const [name, holder] of held) if (holder === transaction) held.delete(name)
      if (how === "aborted") {
        wake()
        return
      }
      for (const change of transaction.changes) changes.push({ ...change, seq: ++seq })
      for (const { key, ns } of transaction.written.values()) {
        const next = transaction.store.get(ns)?.docs.get(key)
        const collection = viewOf(undefined).need(ns)
        if (next === undefined) collection.docs.delete(key)
        else collection.docs.set(key, { doc: next.doc, version: seq })
      }
      wake()
    }

    /** Unique indexes are looked at again: another transaction may have been committed meanwhile. */
    const clashes = (transaction: Transaction): boolean => {
      for (const { key, ns } of transaction.written.values()) {
        const next = transaction.store.get(ns)?.docs.get(key)?.doc
        const committed = store.get(ns)
        if (next === undefined || committed === undefined) continue
        for (const index of committed.indexes) {
          if (index.spec["unique"] !== true) continue
          const paths = Object.keys(index.key)
          for (const [other, entry] of committed.docs) {
            if (other === key || transaction.written.has(`${ns}\u0000${other}`)) continue
            if (paths.every((path) => keyOf(at(entry.doc, path)) === keyOf(at(next, path)))) return true
          }
        }
      }
      return false
    }

    const numberOf = (body: Doc): string => String(number(body["txnNumber"]) ?? "")

    const transactionOf = (command: Command): Transaction | undefined => {
      const { body } = command
      if (body["autocommit"] !== false) return undefined
      if (!isSet) {
        throw new CommandError(
          20,
          "IllegalOperation",
          "Transaction numbers are only allowed on a replica set member or mongos"
        )
      }
      const known = sessionOf(body)
      if (known === undefined) throw badValue("a transaction needs a session")
      const { key, session } = known
      const wanted = numberOf(body)
      if (body["startTransaction"] === true) {
        end(session, "aborted")
        session.open = {
          session: key,
          number: wanted,
          started: seq,
          store: new Map([...store].map(([ns, collection]) => [ns, copy(collection)])),
          written: new Map(),
          changes: []
        }
        return session.open
      }
      if (session.open?.number === wanted) return session.open
      const committed = session.ended?.number === wanted && session.ended.how === "committed"
      if (committed && command.name === "commitTransaction") return undefined
      throw committed
        ? new CommandError(256, "TransactionCommitted", `Transaction ${wanted} has been committed.`)
        : new CommandError(
            251,
            "NoSuchTransaction",
            `Given transaction number ${wanted} does not match any in-progress transactions.`,
            [transient]
          )
    }

    // SCRAM-SHA-256 (RFC 5802, RFC 7677).

    const sha = (bytes: Buffer): Buffer => Crypto.createHash("sha256").update(bytes).digest()
    const hmac = (key: Buffer, value: string): Buffer => Crypto.createHmac("sha256", key).update(value).digest()
    const salt = Crypto.randomBytes(16)
    const salted =
      options.user === undefined ? undefined : Crypto.pbkdf2Sync(options.user.password, salt, 4_096, 32, "sha256")
    const refused = () => new CommandError(18, "AuthenticationFailed", "Authentication failed.")
    const field = (message: string, name: string): string =>
      message
        .split(",")
        .find((part) => part.startsWith(`${name}=`))
        ?.slice(2) ?? ""
    const payload = (body: Doc): string =>
      body["payload"] instanceof Bson.Binary ? Buffer.from(body["payload"].buffer).toString("utf8") : ""
    const sasl = (body: Doc, peer: Peer): Doc => {
      const said = payload(body)
      if (body["saslStart"] !== undefined) {
        if (salted === undefined || body["mechanism"] !== "SCRAM-SHA-256") throw refused()
        const bare = said.slice(3)
        const nonce = `${field(bare, "r")}${Crypto.randomBytes(18).toString("base64")}`
        const first = `r=${nonce},s=${salt.toString("base64")},i=4096`
        peer.state["scram"] = { bare, nonce, first }
        return { conversationId: 1, done: false, payload: new Bson.Binary(Buffer.from(first)), ok: 1 }
      }
      if (peer.state["user"] === true) {
        return { conversationId: 1, done: true, payload: new Bson.Binary(Buffer.alloc(0)), ok: 1 }
      }
      const begun = doc(peer.state["scram"])
      if (salted === undefined || text(begun["nonce"]) === "" || field(said, "r") !== begun["nonce"]) throw refused()
      const withoutProof = said.slice(0, said.lastIndexOf(",p="))
      const message = `${text(begun["bare"])},${text(begun["first"])},${withoutProof}`
      const clientKey = hmac(salted, "Client Key")
      const signature = hmac(sha(clientKey), message)
      const proof = Buffer.from(clientKey.map((byte, index) => byte ^ (signature[index] ?? 0)))
      const given = Buffer.from(said.slice(said.lastIndexOf(",p=") + 3), "base64")
      const name = field(text(begun["bare"]), "n")
      if (name !== options.user?.name || given.length !== 32 || !Crypto.timingSafeEqual(given, proof)) throw refused()
      peer.state["user"] = true
      const server = hmac(hmac(salted, "Server Key"), message)
      return {
        conversationId: 1,
        done: true,
        payload: new Bson.Binary(Buffer.from(`v=${server.toString("base64")}`)),
        ok: 1
      }
    }

    const hello = (body: Doc, address: string, peer: Peer): Doc => ({
      helloOk: true,
      ismaster: true,
      isWritablePrimary: true,
      ...(isSet
        ? { setName: "rs0", setVersion: 1, hosts: [address], primary: address, me: address, secondary: false }
        : {}),
      ...(typeof body["saslSupportedMechs"] === "string" ? { saslSupportedMechs: ["SCRAM-SHA-256"] } : {}),
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

    /** Answers one command at once. What waits is not here. */
    const run = (command: Command, view: View, transaction: Transaction | undefined): Doc => {
      const { body, database, name } = command
      const ns = `${database}.${text(body[name])}`
      const session = sessionOf(body)?.key
      const batchSize = number(doc(body["cursor"])["batchSize"]) ?? number(body["batchSize"])
      switch (name) {
        case "insert": {
          let n = 0
          const writeErrors = statements(body, docs(body["documents"]), transaction !== undefined, (one) => {
            view.insert(ns, one)
            n++
          })
          return { n, ...(writeErrors.length === 0 ? {} : { writeErrors }), ok: 1 }
        }
        case "update": {
          let n = 0
          let nModified = 0
          const upserted: Array<Doc> = []
          const writeErrors = statements(body, docs(body["updates"]), transaction !== undefined, (one, index) => {
            const filter = doc(one["q"])
            const change = one["u"]
            const isPatch = isModifier(change) || isStages(change)
            if (!isPatch && one["multi"] === true) {
              throw new CommandError(9, "FailedToParse", "multi update is not supported for replacement-style update")
            }
            const found = view.matching(ns, filter, one["sort"])
            if (found.length === 0 && one["upsert"] === true) {
              const made = updated(seed(filter), filter, change, docs(one["arrayFilters"]), true)
              const next = "_id" in made ? made : { _id: new Bson.ObjectId(), ...made }
              view.insert(ns, next)
              n++
              upserted.push({ index, _id: next["_id"] })
            }
            for (const before of one["multi"] === true ? found : found.slice(0, 1)) {
              const next = updated(before, filter, change, docs(one["arrayFilters"]), false)
              n++
              if (keyOf(next) === keyOf(before)) continue
              view.replace(ns, before, next, isPatch ? "update" : "replace")
              nModified++
            }
          })
          return {
            n,
            nModified,
            ...(upserted.length === 0 ? {} : { upserted }),
            ...(writeErrors.length === 0 ? {} : { writeErrors }),
            ok: 1
          }
        }
        case "delete": {
          let n = 0
          const writeErrors = statements(body, docs(body["deletes"]), transaction !== undefined, (one) => {
            for (const before of view.matching(ns, doc(one["q"]), undefined, number(one["limit"]) ?? 0)) {
              view.remove(ns, before)
              n++
            }
          })
          return { n, ...(writeErrors.length === 0 ? {} : { writeErrors }), ok: 1 }
        }
        case "findAndModify": {
          const filter = doc(body["query"])
          const before = view.matching(ns, filter, body["sort"])[0]
          const shown = (value: Doc | undefined): Doc | null =>
            value === undefined
              ? null
              : isDoc(body["fields"])
                ? (query({}).find<Doc>([value], body["fields"]).all()[0] ?? null)
                : value
          if (before === undefined) {
            if (body["upsert"] !== true || body["remove"] === true) {
              return { value: null, lastErrorObject: { n: 0, updatedExisting: false }, ok: 1 }
            }
            const made = updated(seed(filter), filter, body["update"], docs(body["arrayFilters"]), true)
            const next = "_id" in made ? made : { _id: new Bson.ObjectId(), ...made }
            view.insert(ns, next)
            return {
              value: body["new"] === true ? shown(next) : null,
              lastErrorObject: { n: 1, updatedExisting: false, upserted: next["_id"] },
              ok: 1
            }
          }
          if (body["remove"] === true) {
            view.remove(ns, before)
            return { value: shown(before), lastErrorObject: { n: 1 }, ok: 1 }
          }
          const change = body["update"]
          const next = updated(before, filter, change, docs(body["arrayFilters"]), false)
          if (keyOf(next) !== keyOf(before)) {
            view.replace(ns, before, next, isModifier(change) || isStages(change) ? "update" : "replace")
          }
          return {
            value: shown(body["new"] === true ? next : before),
            lastErrorObject: { n: 1, updatedExisting: true },
            ok: 1
          }
        }
        case "find": {
          const filter = doc(body["filter"])
          const limit = number(body["limit"]) ?? 0
          const skip = number(body["skip"]) ?? 0
          let found = view.matching(ns, filter, body["sort"])
          found = skip > 0 || limit > 0 ? found.slice(skip, limit > 0 ? skip + limit : undefined) : found
          const projection = body["projection"]
          if (isDoc(projection) && Object.keys(projection).length > 0) {
            found = query(filter, body).find<Doc>(found, projection).all()
          }
          return cursorReply(ns, found, batchSize, session, body["singleBatch"] === true)
        }
        case "aggregate": {
          const pipeline = docs(body["pipeline"])
          if (pipeline[0] !== undefined && "$changeStream" in pipeline[0]) {
            if (transaction !== undefined) throw new CommandError(263, "OperationNotSupportedInTransaction", "not here")
            const collection = typeof body["aggregate"] === "string" ? body["aggregate"] : undefined
            const of = changeCursor(database, collection, pipeline)
            return cursorReply(`${database}.${collection ?? "$cmd.aggregate"}`, [], batchSize, session, false, of)
          }
          for (const stage of pipeline) {
            if ("$out" in stage || "$merge" in stage) {
              throw new CommandError(40324, "Location40324", "this double has neither $out nor $merge")
            }
          }
          const source =
            typeof body["aggregate"] === "string"
              ? [...(view.find(ns)?.docs.values() ?? [])].map((entry) => entry.doc)
              : []
          try {
            const found = new Aggregator(pipeline, {
              collectionResolver: (other) =>
                [...(view.find(`${database}.${other}`)?.docs.values() ?? [])].map((entry) => entry.doc),
              ...(isDoc(body["let"]) ? { variables: body["let"] } : {})
            }).run<Doc>(source)
            return cursorReply(ns, found, batchSize, session)
          } catch (error) {
            throw new CommandError(
              40324,
              "Location40324",
              error instanceof Error ? error.message : "the pipeline is wrong"
            )
          }
        }
        case "count":
          return { n: view.matching(ns, doc(body["query"])).length, ok: 1 }
        case "distinct": {
          const values = new Map<string, unknown>()
          for (const found of view.matching(ns, doc(body["query"]))) {
            const value = at(found, text(body["key"]))
            for (const one of Array.isArray(value) ? value : value === undefined ? [] : [value]) {
              values.set(keyOf(one), one)
            }
          }
          return { values: [...values.values()], ok: 1 }
        }
        case "createIndexes": {
          const collection = view.need(ns)
          const before = collection.indexes.length
          for (const spec of docs(body["indexes"])) {
            const index: Index = { name: text(spec["name"]), key: doc(spec["key"]), spec }
            const known = collection.indexes.find((other) => other.name === index.name)
            if (known !== undefined) {
              if (keyOf(known.key) === keyOf(index.key) && known.spec["unique"] === spec["unique"]) continue
              throw new CommandError(86, "IndexKeySpecsConflict", "an index of this name has another specification")
            }
            const seen = new Set<string>()
            for (const entry of spec["unique"] === true ? collection.docs.values() : []) {
              const key = Object.keys(index.key)
                .map((path) => keyOf(at(entry.doc, path)))
                .join("\u0000")
              if (seen.has(key)) {
                throw new CommandError(
                  11000,
                  "DuplicateKey",
                  `E11000 duplicate key error collection: ${ns} index: ${index.name}`
                )
              }
              seen.add(key)
            }
            collection.indexes.push(index)
          }
          return { numIndexesBefore: before, numIndexesAfter: collection.indexes.length, ok: 1 }
        }
        case "listIndexes": {
          const collection = view.find(ns)
          if (collection === undefined) throw new CommandError(26, "NamespaceNotFound", `ns does not exist: ${ns}`)
          const all = collection.indexes.map((index) => ({ v: 2, ...index.spec, key: index.key, name: index.name }))
          return cursorReply(ns, all, batchSize, session)
        }
        case "dropIndexes": {
          const collection = view.find(ns)
          if (collection === undefined) throw new CommandError(26, "NamespaceNotFound", `ns not found ${ns}`)
          const wanted = text(body["index"])
          const kept = collection.indexes.filter(
            (index) => index.name === "_id_" || (wanted !== "*" && index.name !== wanted)
          )
          if (wanted !== "*" && kept.length === collection.indexes.length) {
            throw new CommandError(27, "IndexNotFound", `index not found with name [${wanted}]`)
          }
          collection.indexes.splice(0, collection.indexes.length, ...kept)
          return { ok: 1 }
        }
        case "create":
          if (view.find(ns) !== undefined) {
            throw new CommandError(48, "NamespaceExists", `Collection ${ns} already exists.`)
          }
          view.need(ns)
          return { ok: 1 }
        case "drop":
          if (!store.delete(ns)) throw new CommandError(26, "NamespaceNotFound", "ns not found")
          view.note(ns, { operationType: "drop" })
          return { ns, ok: 1 }
        case "dropDatabase":
          for (const key of [...store.keys()]) {
            if (!key.startsWith(`${database}.`)) continue
            store.delete(key)
            view.note(key, { operationType: "drop" })
          }
          return { dropped: database, ok: 1 }
        case "listCollections": {
          const found = [...store.keys()]
            .filter((key) => key.startsWith(`${database}.`))
            .map((key) => ({ name: key.slice(database.length + 1), type: "collection", options: {} }))
          return cursorReply(
            `${database}.$cmd.listCollections`,
            query(doc(body["filter"])).find<Doc>(found).all(),
            batchSize,
            session
          )
        }
        case "listDatabases": {
          const names = new Set([...store.keys()].map((key) => key.slice(0, key.indexOf("."))))
          return {
            databases: [...names].map((each) => ({ name: each, sizeOnDisk: 0, empty: false })),
            totalSize: 0,
            ok: 1
          }
        }
        case "killCursors": {
          const ids = list(body["cursors"]).map(String)
          const cursorsKilled = list(body["cursors"]).filter((_, index) => cursors.delete(ids[index] ?? ""))
          wake()
          return { cursorsKilled, cursorsNotFound: [], cursorsAlive: [], cursorsUnknown: [], ok: 1 }
        }
        case "ping":
          return { ok: 1 }
        case "buildInfo":
        case "buildinfo":
          return { version: "7.0.0", versionArray: [7, 0, 0, 0], modules: [], ok: 1 }
        case "endSessions": {
          for (const each of docs(body["endSessions"])) {
            const known = sessionOf({ lsid: each })
            if (known === undefined) continue
            end(known.session, "aborted")
            sessions.delete(known.key)
            for (const [id, cursor] of cursors) if (cursor.session === known.key) cursors.delete(id)
          }
          return { ok: 1 }
        }
        default:
          throw new CommandError(59, "CommandNotFound", `no such command: '${name}'`)
      }
    }

    const answer = async (command: Command, peer: Peer): Promise<Doc> => {
      const { body, name } = command
      if (name === "hello" || name.toLowerCase() === "ismaster")
        return hello(body, `${listener.host}:${listener.port}`, peer)
      if (name === "saslStart" || name === "saslContinue") return sasl(body, peer)
      if (options.user !== undefined && peer.state["user"] !== true && !withoutUser.has(name)) {
        throw new CommandError(13, "Unauthorized", `Command ${name} requires authentication`)
      }
      const known = withoutSession.has(name) ? undefined : sessionOf(body)
      if (name === "commitTransaction") {
        const transaction = transactionOf(command)
        if (known !== undefined && transaction !== undefined) {
          if (clashes(transaction)) {
            end(known.session, "aborted")
            throw writeConflict()
          }
          end(known.session, "committed")
        }
        return { ok: 1 }
      }
      if (name === "abortTransaction") {
        if (transactionOf(command) !== undefined && known !== undefined) end(known.session, "aborted")
        return { ok: 1 }
      }
      if (name === "getMore") {
        const id = String(body["getMore"])
        const cursor = cursors.get(id)
        if (cursor === undefined) throw new CommandError(43, "CursorNotFound", `cursor id ${id} not found`)
        if (cursor.changes !== undefined) return moreChanges(cursor, cursor.changes, id, body, peer)
        const nextBatch = cursor.rest.splice(0, number(body["batchSize"]) ?? 10_000)
        if (cursor.rest.length === 0) cursors.delete(id)
        return {
          cursor: {
            nextBatch,
            id: cursor.rest.length === 0 ? Bson.Long.ZERO : Bson.Long.fromString(id),
            ns: cursor.ns
          },
          ok: 1
        }
      }
      const retryable = body["txnNumber"] !== undefined && body["autocommit"] === undefined
      if (retryable && !isSet) {
        throw new CommandError(
          20,
          "IllegalOperation",
          "Transaction numbers are only allowed on a replica set member or mongos"
        )
      }
      if (retryable && known?.session.retryable?.number === numberOf(body)) return known.session.retryable.reply
      const transaction = transactionOf(command)
      const limit = performance.now() + 5_000
      for (;;) {
        try {
          const reply = run(command, viewOf(transaction), transaction)
          if (transaction !== undefined && "writeErrors" in reply && known !== undefined) end(known.session, "aborted")
          if (retryable && known !== undefined) known.session.retryable = { number: numberOf(body), reply }
          wake()
          return reply
        } catch (error) {
          if (error instanceof Held) {
            if (peer.gone.aborted || performance.now() > limit) throw writeConflict()
            await pause(5, peer)
            continue
          }
          if (transaction !== undefined && known !== undefined) end(known.session, "aborted")
          throw error
        }
      }
    }

    const faultFor = (name: string): Fault | undefined => {
      for (const entry of faults) {
        if (!entry.fault.commands.includes(name) || entry.left <= 0) continue
        if (entry.skip > 0) {
          entry.skip--
          continue
        }
        entry.left--
        return entry.fault
      }
      return undefined
    }

    const listener = yield* serve(async (command, peer) => {
      const fault = faultFor(command.name)
      if (fault?.delayMillis !== undefined) {
        const most = fault.ignoreMaxTime === true ? undefined : number(command.body["maxTimeMS"])
        await pause(most === undefined ? fault.delayMillis : Math.min(most, fault.delayMillis), peer)
        if (peer.gone.aborted) return undefined
        if (most !== undefined && most < fault.delayMillis) {
          throw new CommandError(50, "MaxTimeMSExpired", "operation exceeded time limit")
        }
      }
      counted.set(command.name, (counted.get(command.name) ?? 0) + 1)
      // A server that says that it does not know a transaction has none.
      const session = fault?.code === 251 ? sessionOf(command.body)?.session : undefined
      if (session !== undefined) end(session, "aborted")
      const fails = fault?.code !== undefined || fault?.reset === true
      const reply = fails && fault.after !== true ? { ok: 1 } : await answer(command, peer)
      if (fault?.reset === true) {
        peer.reset()
        return undefined
      }
      if (fault?.code !== undefined) {
        throw new CommandError(fault.code, fault.codeName ?? "Failed", fault.message ?? "a fault", fault.labels ?? [])
      }
      return fault?.writeConcernError === undefined
        ? reply
        : {
            ...reply,
            writeConcernError: fault.writeConcernError,
            ...(fault.labels === undefined ? {} : { errorLabels: [...fault.labels] })
          }
    }, options.port)

    const secret =
      options.user === undefined
        ? ""
        : `${encodeURIComponent(options.user.name)}:${encodeURIComponent(options.user.password)}@`
    return {
      host: listener.host,
      port: listener.port,
      url: `mongodb://${secret}${listener.host}:${listener.port}/?directConnection=true`,
      counts: Effect.sync(() => ({
        connections: listener.connections(),
        cursors: cursors.size,
        transactions: [...sessions.values()].filter((session) => session.open !== undefined).length,
        sessions: sessions.size,
        commands: Object.fromEntries(counted)
      })),
      fail: (fault) =>
        Effect.sync(() => {
          faults.push({ fault, left: fault.times ?? 1, skip: fault.skip ?? 0 })
        }),
      calm: Effect.sync(() => {
        faults.length = 0
      }),
      forgetChanges: Effect.sync(() => {
        // the changes that come now stand behind a gap
        forgotten = ++seq
        changes = []
        wake()
      }),
      forgetCursors: Effect.sync(() => {
        cursors.clear()
        wake()
      }),
      resetAll: Effect.sync(() => listener.resetAll()),
      kill: listener.close,
      start: listener.listen
    }
  })
