/**
 * The checkers of histories on this library and its peers: racing changes and deletions of a session over two
 * connections, and a resource that processes write under a lock, some of which are stopped while they have it.
 */
import * as ChildProcess from "node:child_process"
import * as Path from "node:path"
import { History, LockHistory, SessionHistory } from "@underlay/core/testing"
import { RedisClient, RedisSessionStore } from "@underlay/redis"
import type { RedisStore } from "connect-redis"
import { Context, Duration, Effect, Layer } from "effect"
import * as RedisServer from "../../servers/src/RedisServer.ts"
import * as Peers from "./redis/peers.ts"

/** What a store does with the operations of a history. */
type Perform = (input: SessionHistory.Input) => Effect.Effect<History.Outcome<SessionHistory.Output>>

const now = (): number => Number(process.hrtime.bigint()) / 1_000

const ours = (port: number) =>
  Effect.gen(function* () {
    const context = yield* Layer.build(RedisClient.layer({ host: "127.0.0.1", port, commandTimeout: "5 seconds" }))
    const store = yield* RedisSessionStore.make(Context.get(context, RedisClient.RedisClient), { tombstone: "1 hour" })
    return (input: SessionHistory.Input) => SessionHistory.perform(store, input)
  })

interface Kept {
  readonly marks: ReadonlyArray<string>
}

/** connect-redis as express-session uses it: a request reads a session, changes it and saves it at its end. */
const connectRedis = (port: number) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(() => Peers.nodeRedis({ host: "127.0.0.1", port })),
      (client) => Effect.sync(() => client.destroy())
    ),
    (client): Perform => {
      const store: RedisStore = Peers.connectRedis(client)
      const load = async (id: string): Promise<Kept | null> => (await store.get(id)) as Kept | null
      const run = async (input: SessionHistory.Input): Promise<SessionHistory.Output> => {
        switch (input._tag) {
          case "Create": {
            await store.set(input.id, { cookie: {}, marks: [input.mark] } as never)
            return true
          }
          case "Update": {
            const session = await load(input.id)
            if (session === null) return "none"
            const marks = [...session.marks, input.mark]
            await store.set(input.id, { ...session, marks } as never)
            return marks
          }
          case "Delete":
            return (await store.destroy(input.id)) as never
          default:
            return (await load(input.id))?.marks ?? "none"
        }
      }
      // what destroy does not say, whether there was one, is taken as said
      return (input) =>
        Effect.map(
          Effect.promise(() => run(input)),
          (output) => ({ _tag: "Done", output })
        )
    }
  )

interface Row {
  readonly library: string
  readonly what: string
  readonly operations: number
  readonly found: string
}

/** Sessions that each live once: made, changed by two at a time or, where `deletes` is set, by one while they are deleted. */
const races = (library: string, performs: ReadonlyArray<Perform>, deletes: boolean): Effect.Effect<Row> =>
  Effect.gen(function* () {
    const recorder = yield* History.makeRecorder<SessionHistory.Input, SessionHistory.Output>(now)
    const rounds = 200
    const [first] = performs
    for (let round = 0; round < rounds && first !== undefined; round++) {
      const id = `${deletes ? "d" : "u"}${round}`
      const record = (client: string, perform: Perform, input: SessionHistory.Input) =>
        recorder.record(client, input, perform(input))
      yield* record("a", first, { _tag: "Create", id, mark: `${id}-c` })
      yield* Effect.forEach(
        performs,
        (perform, index) =>
          Effect.gen(function* () {
            if (deletes && index === 0) {
              // a sign-out in the midst of it: what it answers is not judged
              yield* Effect.sleep(Duration.millis(Math.random() * 3))
              yield* record("a", (input) => Effect.map(perform(input), () => ({ _tag: "Done", output: true })), {
                _tag: "Delete",
                id
              })
            } else
              for (let n = 0; n < (deletes ? 12 : 3); n++)
                yield* record(`b${index}`, perform, { _tag: "Update", id, mark: `${id}-${index}${n}` })
          }),
        { concurrency: "unbounded", discard: true }
      )
      yield* record("a", first, { _tag: "Get", id })
    }
    const history = yield* recorder.history
    let anomalies = 0
    for (const part of History.partition(history, (input) => input.id).values()) {
      if (SessionHistory.check(part)._tag !== "Linearizable") anomalies++
    }
    const what = deletes ? "sessions that are changed and deleted at once" : "sessions that two change at once"
    return { library, what, operations: history.length, found: `${anomalies} of ${rounds} sessions with an anomaly` }
  })

const worker = Path.join(import.meta.dirname, "history/lockWorker.ts")

/** Runs one lock worker to its end, and wakes it when it has stopped itself. */
const holdsOf = (library: string, port: number, name: string, seconds: number) =>
  Effect.async<ReadonlyArray<LockHistory.Hold>>((resume) => {
    const child = ChildProcess.spawn(
      process.execPath,
      ["--import", "tsx", worker, library, String(port), name, String(seconds)],
      { stdio: ["ignore", "pipe", "inherit"] }
    )
    let rest = ""
    const holds: Array<LockHistory.Hold> = []
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      const lines = `${rest}${chunk}`.split("\n")
      rest = lines.pop() ?? ""
      for (const line of lines) {
        if (line.startsWith("{")) holds.push(JSON.parse(line))
        else if (line === "stopped") setTimeout(() => child.kill("SIGCONT"), Math.random() * 900)
      }
    })
    child.once("close", () => resume(Effect.succeed(holds)))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

const locks = (library: string) =>
  Effect.gen(function* () {
    const server = yield* RedisServer.make()
    const holds = (yield* Effect.forEach(["a", "b", "c"], (name) => holdsOf(library, server.port, name, 15), {
      concurrency: "unbounded"
    })).flat()
    const log = yield* server.call("LRANGE", "{lock:a}:log", "0", "-1")
    const written = (Array.isArray(log) ? log.map(String) : []).map((line) => {
      const [mark = "", seen = ""] = line.split(" ")
      return { mark, seen }
    })
    const counts: Record<string, number> = {}
    for (const { _tag } of LockHistory.check(holds, written)) counts[_tag] = (counts[_tag] ?? 0) + 1
    const found = Object.entries(counts).map(([tag, count]) => `${count} ${tag}`)
    const what = "a guarded resource, holders that stop"
    return { library, what, operations: holds.length, found: found.length === 0 ? "nothing" : found.join(", ") }
  })

const program = Effect.gen(function* () {
  const rows: Array<Row> = []
  for (const deletes of [false, true]) {
    const server = yield* RedisServer.make()
    rows.push(yield* races("underlay", [yield* ours(server.port), yield* ours(server.port)], deletes))
    rows.push(
      yield* races("connect-redis 9", [yield* connectRedis(server.port), yield* connectRedis(server.port)], deletes)
    )
  }
  for (const library of ["underlay", "redlock 4", "redis-semaphore 5"]) rows.push(yield* locks(library))
  return rows
})

/** Prints what the checkers find. */
export const run = async (): Promise<void> => {
  console.table(await Effect.runPromise(Effect.scoped(program)))
}
