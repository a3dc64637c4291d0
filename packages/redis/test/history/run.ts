/**
 * Random runs of several processes against a real server, with real faults by a seed: processes that are stopped and go
 * on, a server that is killed and started again (every write on disk before it is answered), frozen, or forgets its
 * scripts; connections that are reset, lose replies, fall silent; clocks that jump. What the processes did is judged.
 */
import * as ChildProcess from "node:child_process"
import * as Path from "node:path"
import { LockHistory, SessionHistory } from "@underlay/core/testing"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as Server from "@underlay/servers/RedisServer"
import { Data, Effect, type Scope } from "effect"
import { pause } from "../support.ts"
import type { LockPlan } from "./lockWorker.ts"
import type { SessionPlan } from "./sessionWorker.ts"
import { randomOf } from "./worker.ts"

/** A worker did not do what it was told. */
export class WorkerError extends Data.TaggedError("WorkerError")<{ readonly description: string }> {
  override get message(): string {
    return this.description
  }
}

/** A worker process. It is killed when the scope closes. */
export interface Worker {
  readonly tell: (line: string) => Effect.Effect<void>
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
  readonly said: (line: string) => boolean
  /** What it said since this was asked last, JSON only. */
  readonly take: Effect.Effect<ReadonlyArray<unknown>>
  /** Waits until it has said a line. */
  readonly awaits: (line: string, millis?: number) => Effect.Effect<void, WorkerError>
}

/** Starts a worker: a file of this folder, with a plan. It is waked by itself when it says that it is `stopped`. */
export const worker = (
  file: string,
  plan: unknown,
  wakeAfter: () => number = () => 0
): Effect.Effect<Worker, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => {
        const path = Path.resolve(import.meta.dirname, file)
        const child = ChildProcess.spawn(process.execPath, ["--import", "tsx", path, JSON.stringify(plan)], {
          stdio: ["pipe", "pipe", "pipe"]
        })
        child.stdin.on("error", () => {})
        const words = new Set<string>()
        const data: Array<unknown> = []
        const state = { problem: "", rest: "", exited: false }
        child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
          const lines = `${state.rest}${chunk}`.split("\n")
          state.rest = lines.pop() ?? ""
          for (const line of lines) {
            if (line.startsWith("{")) data.push(JSON.parse(line))
            else if (line === "stopped") setTimeout(() => child.kill("SIGCONT"), wakeAfter())
            else words.add(line)
          }
        })
        child.stderr.on("data", (chunk) => {
          state.problem += String(chunk)
        })
        child.once("close", () => {
          state.exited = true
        })
        return { child, words, data, state }
      }),
      ({ child }) => Effect.sync(() => child.kill("SIGKILL"))
    ),
    ({ child, data, state, words }) => ({
      tell: (line) => Effect.sync(() => void child.stdin.write(`${line}\n`)),
      signal: (signal) => Effect.sync(() => void child.kill(signal)),
      said: (line) => words.has(line),
      take: Effect.sync(() => data.splice(0)),
      awaits: (line, millis = 60_000) =>
        Effect.gen(function* () {
          const end = performance.now() + millis
          while (!words.has(line)) {
            if (state.exited || performance.now() > end) {
              return yield* new WorkerError({ description: `a worker never said '${line}': ${state.problem}` })
            }
            yield* pause(10)
          }
        })
    })
  )

/** What faults are made of. */
export interface World {
  readonly server: Server.RedisServer
  readonly proxy: FaultProxy.FaultProxy
  readonly workers: ReadonlyArray<Worker>
  readonly random: () => number
}

type Fault = readonly [name: string, make: (world: World) => Effect.Effect<unknown, unknown>]

const between = (random: () => number, low: number, high: number): number => Math.round(low + random() * (high - low))

const during = (
  world: World,
  low: number,
  high: number,
  on: Effect.Effect<unknown, unknown>,
  off: Effect.Effect<unknown, unknown>
) => Effect.zipRight(on, Effect.zipRight(pause(between(world.random, low, high)), off))

const one = (world: World, f: (worker: Worker) => Effect.Effect<unknown>) =>
  Effect.suspend(() => {
    const worker = world.workers[Math.floor(world.random() * world.workers.length)]
    return worker === undefined ? Effect.void : f(worker)
  })

/** All faults after which whatever the server acknowledged is still there. */
const faults: ReadonlyArray<Fault> = [
  [
    "a process stops",
    (world) =>
      one(
        world,
        (worker) =>
          during(world, 100, 1_000, worker.signal("SIGSTOP"), worker.signal("SIGCONT")) as Effect.Effect<unknown>
      )
  ],
  [
    "kill -9 of the server",
    ({ random, server }) => Effect.zipRight(server.kill, Effect.zipRight(pause(between(random, 0, 400)), server.start))
  ],
  ["the server freezes", (world) => during(world, 100, 900, world.server.freeze, world.server.thaw)],
  ["resets", ({ proxy }) => proxy.resetAll],
  [
    "a burst of resets",
    ({ proxy, random }) =>
      Effect.forEach(Array.from({ length: 5 }), () => Effect.zipRight(proxy.resetAll, pause(between(random, 5, 60))))
  ],
  ["lost replies", ({ proxy, random }) => proxy.resetAfter(between(random, 0, 40))],
  [
    "replies are swallowed",
    (world) =>
      during(
        world,
        50,
        700,
        world.proxy.swallowReplies(true),
        // a connection that has lost bytes cannot go on
        Effect.zipRight(world.proxy.resetAll, world.proxy.swallowReplies(false))
      )
  ],
  ["a blackhole", (world) => during(world, 50, 900, world.proxy.blackhole(true), world.proxy.blackhole(false))],
  [
    "requests are held up",
    (world) => during(world, 50, 900, world.proxy.blackhole(true, "requests"), world.proxy.blackhole(false, "requests"))
  ],
  [
    "slow and in pieces",
    (world) => during(world, 50, 500, Effect.zipRight(world.proxy.latency(20), world.proxy.slice(7)), world.proxy.calm)
  ],
  ["a half-closed connection", ({ proxy }) => proxy.halfClose],
  ["SCRIPT FLUSH", ({ server }) => server.command("SCRIPT", "FLUSH")],
  ["CLIENT KILL", ({ server }) => server.command("CLIENT", "KILL", "TYPE", "normal")],
  [
    "a clock jumps",
    (world) => one(world, (worker) => worker.tell(`jump ${between(world.random, -86_400_000, 86_400_000)}`))
  ]
]

/** Faults by the seed for so long, with rests in between; then everything is well again. Gives what was done how often. */
const disturb = (world: World, seconds: number, more: ReadonlyArray<Fault> = []) =>
  Effect.gen(function* () {
    const all = [...faults, ...more]
    const counts: Record<string, number> = {}
    const end = performance.now() + seconds * 1_000
    while (performance.now() < end) {
      yield* pause(between(world.random, 20, 400))
      const fault = all[Math.floor(world.random() * all.length)]
      if (fault === undefined) continue
      const [name, make] = fault
      counts[name] = (counts[name] ?? 0) + 1
      yield* make(world)
    }
    yield* world.proxy.calm
    return counts
  })

/** How a run went. */
export interface Report {
  readonly seed: number
  readonly operations: number
  readonly unknown: number
  readonly notDone: number
  readonly faults: Readonly<Record<string, number>>
  /** How long it took to judge, in milliseconds. */
  readonly judged: number
  /** What went wrong; empty where nothing did. */
  readonly anomalies: ReadonlyArray<string>
}

/** Options of a run. */
export interface RunOptions {
  readonly seed: number
  readonly seconds: number
  readonly processes?: number
  /** How long the same keys are used, in seconds. */
  readonly episode?: number
  /** Without faults: the races alone. */
  readonly calm?: boolean
}

const start = (options: RunOptions) =>
  Effect.gen(function* () {
    const server = yield* Server.make({ appendOnly: true })
    const proxy = yield* FaultProxy.make({ port: server.port })
    return { server, proxy, random: randomOf(options.seed) }
  })

/** The run, an episode after another: each has new keys. Workers are waited for at both ends. */
const drive = (world: World, options: RunOptions, more: ReadonlyArray<Fault> = []) =>
  Effect.gen(function* () {
    const counts: Record<string, number> = {}
    const length = options.episode ?? 8
    let episode = 0
    yield* Effect.forEach(world.workers, (one) => one.awaits("ready"), { concurrency: "unbounded" })
    for (let left = options.seconds; left > 0; left -= length) {
      for (const one of world.workers) yield* one.tell(`episode ${episode}`)
      const seconds = Math.min(left, length)
      if (options.calm === true) yield* pause(seconds * 1_000)
      else
        for (const [name, count] of Object.entries(yield* disturb(world, seconds, more)))
          counts[name] = (counts[name] ?? 0) + count
      episode++
    }
    for (const one of world.workers) yield* one.tell("stop")
    yield* Effect.forEach(world.workers, (one) => one.awaits("over"), { concurrency: "unbounded" })
    return { counts, episodes: episode }
  })

/** Sessions under races and faults, judged by the linearizability of every session. */
export const sessions = (
  options: RunOptions & { readonly mode?: SessionPlan["mode"] }
): Effect.Effect<Report, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const { proxy, random, server } = yield* start(options)
    const workers = yield* Effect.forEach(
      Array.from({ length: options.processes ?? 3 }, (_, index) => index),
      (index) => {
        const plan: SessionPlan = {
          name: String.fromCharCode(97 + index),
          port: proxy.port,
          seed: options.seed + index,
          fibers: 4,
          pairs: 4,
          rest: 12,
          mode: options.mode ?? "sound"
        }
        return worker("sessionWorker.ts", plan)
      }
    )
    const { counts } = yield* drive({ server, proxy, workers, random }, options)
    const history = (yield* Effect.forEach(
      workers,
      (one) => one.take
    )).flat() as ReadonlyArray<SessionHistory.Operation>
    const began = performance.now()
    const verdict = SessionHistory.check(history)
    return {
      seed: options.seed,
      operations: history.length,
      unknown: history.filter((one) => one._tag === "Unknown").length,
      notDone: history.filter((one) => one._tag === "NotDone").length,
      faults: counts,
      judged: Math.round(performance.now() - began),
      anomalies:
        verdict._tag === "Linearizable" ? [] : [`${verdict._tag} ${verdict.ids.join(" ")}: ${verdict.description}`]
    }
  })

/**
 * A lock and the resource that it guards, under races and faults: holders that stop and, with `thefts`, locks that
 * somebody deletes. Then a holder who cannot be told may believe to the end that it holds: the resource alone is judged.
 */
export const locks = (
  options: RunOptions & { readonly mode?: LockPlan["mode"]; readonly stops?: number; readonly thefts?: boolean }
): Effect.Effect<Report, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const { proxy, random, server } = yield* start(options)
    const ttl = 400
    const workers = yield* Effect.forEach(
      Array.from({ length: options.processes ?? 3 }, (_, index) => index),
      (index) => {
        const plan: LockPlan = {
          name: String.fromCharCode(97 + index),
          port: proxy.port,
          seed: options.seed + index,
          fibers: 2,
          ttl,
          stops: options.stops ?? 0.02,
          mode: options.mode ?? "fenced"
        }
        return worker("lockWorker.ts", plan, () => between(random, 10, 3 * ttl))
      }
    )
    const stolen: Fault = ["the lock is taken away", ({ server }) => server.command("EVAL", steal, "0")]
    const { counts, episodes } = yield* drive(
      { server, proxy, workers, random },
      options,
      options.thefts === true ? [stolen, stolen] : []
    )
    const all = (yield* Effect.forEach(workers, (one) => one.take)).flat() as ReadonlyArray<{
      readonly key: string
      readonly hold: LockHistory.Hold
    }>
    const anomalies: Array<string> = []
    const began = performance.now()
    for (let episode = 0; episode < episodes; episode++) {
      const holds = all.filter((one) => one.key === String(episode)).map((one) => one.hold)
      const log = yield* server.call("LRANGE", `{lock:${episode}}:log`, "0", "-1")
      const written = (Array.isArray(log) ? log.map(String) : []).map((line) => {
        const [mark = "", seen = ""] = line.split(" ")
        return { mark, seen }
      })
      for (const one of LockHistory.check(holds, written)) {
        if (options.thefts === true && one._tag === "TwoHolders") continue
        anomalies.push(`${episode}: ${one._tag}: ${one.description}`)
      }
    }
    const outcomes = all.map((one) => one.hold.write?.outcome)
    return {
      seed: options.seed,
      operations: all.length,
      unknown: outcomes.filter((one) => one === "Unknown").length,
      notDone: outcomes.filter((one) => one === "NotDone").length,
      faults: counts,
      judged: Math.round(performance.now() - began),
      anomalies
    }
  })

/** Deletes the locks that are held now. */
const steal = `for _, key in ipairs(redis.call('KEYS', 'lock:*')) do redis.call('DEL', key) end
return 1`
