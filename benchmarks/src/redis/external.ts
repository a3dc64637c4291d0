/**
 * The pattern that every Redis operation is an external call (a span, log lines, metrics, a timeout and a retry) beside
 * ours, at 100 and 1,000 requests a second of four operations each: read a session and let it live on, read a cached value,
 * ask a rate limit, change the session. Requests begin at their times whether or not those before have ended, and their
 * latency counts from when they should have begun, so that a program that cannot keep up does not look fast.
 */
import { fork } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { Cache, ExternalClient, RateLimiter } from "@underlay/core"
import { RedisCache, RedisClient, RedisRateLimiter, RedisSessionStore } from "@underlay/redis"
import {
  Context,
  Effect,
  Exit,
  Layer,
  Logger,
  LogLevel,
  Metric,
  MetricBoundaries,
  Runtime,
  Schedule,
  Schema
} from "effect"
import * as RedisServer from "../../../servers/src/RedisServer.ts"
import { keep, machine } from "../Harness.ts"
import { percentile } from "./Load.ts"
import * as peers from "./peers.ts"

const warmMs = 2_000
const measuredMs = 6_000
const drainMs = 5_000
const sessions = 5_000
const rates = [100, 1_000] as const
const modes = ["timers", "plain", "by-hand", "external-client"] as const

type Mode = (typeof modes)[number]

const titles: Readonly<Record<Mode, string>> = {
  timers: "the load generator alone",
  plain: "ours: plain effects",
  "by-hand": "every operation external, by hand",
  "external-client": "every operation external, ExternalClient"
}

interface Figures {
  readonly mode: Mode
  readonly rate: number
  readonly perSecond: number
  readonly failed: number
  readonly unfinished: number
  readonly linesPerSecond: number
  readonly cpuPercent: number
  readonly cpuUsPerRequest: number
  readonly heapMiB: number
  readonly rssMiB: number
  readonly p50: number
  readonly p99: number
  readonly longest: number
}

type Watch = (operation: string) => <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, unknown>

/** As it is written where Redis is a service like any other. */
const byHand = (): Watch => {
  const duration = Metric.timerWithBoundaries(
    "redis_duration",
    MetricBoundaries.exponential({ start: 0.1, factor: 2, count: 14 }).values
  )
  const calls = Metric.counter("redis_calls")
  const failures = Metric.counter("redis_failures")
  return (operation) => (effect) =>
    Effect.logInfo("redis call begins").pipe(
      Effect.zipRight(
        effect.pipe(
          Effect.timeout("5 seconds"),
          Effect.retry({ times: 2, schedule: Schedule.jittered(Schedule.exponential("100 millis")) }),
          Metric.trackDuration(duration),
          Effect.tapBoth({
            onSuccess: () => Effect.zipRight(Metric.increment(calls), Effect.logInfo("redis call succeeded")),
            onFailure: (error) =>
              Effect.zipRight(Metric.increment(failures), Effect.logError("redis call failed", error))
          })
        )
      ),
      Effect.annotateLogs({ service: "redis", operation }),
      Effect.withSpan(`redis.${operation}`, { kind: "client", attributes: { "db.system.name": "redis" } })
    )
}

const watching = (mode: Mode) =>
  Effect.gen(function* () {
    if (mode === "by-hand") return byHand()
    if (mode !== "external-client") return ((_) => (effect) => effect) satisfies Watch as Watch
    const client = yield* ExternalClient.make({
      service: "redis",
      policy: { timeout: "5 seconds", retry: { attempts: 3 } },
      logLevels: { success: LogLevel.Info }
    })
    return ((operation) => (effect) => client.call(operation, effect)) as Watch
  })

/** Each in a process of its own, so that what one leaves behind does not burden the next. */
const inProcess = (mode: Mode, rate: number, port: number): Promise<Figures> =>
  new Promise((resolve, reject) => {
    const child = fork(import.meta.filename, [mode, String(rate), String(port)])
    child.once("message", (figures) => resolve(figures as Figures))
    child.once("exit", (code) => reject(new Error(`${mode} ended with ${code}`)))
  })

const run = (mode: Mode, rate: number, port: number): Effect.Effect<Figures, unknown> =>
  Effect.scoped(
    Effect.gen(function* () {
      const folder = yield* Effect.acquireRelease(
        Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "underlay-log-"))),
        (path) => Effect.sync(() => Fs.rmSync(path, { recursive: true }))
      )
      const file = Fs.createWriteStream(Path.join(folder, "log"))
      let lines = 0
      const logger = Logger.replace(
        Logger.defaultLogger,
        Logger.map(Logger.jsonLogger, (line) => {
          lines++
          file.write(`${line}\n`)
        })
      )
      const client = Context.get(
        yield* Layer.build(RedisClient.layer({ host: "127.0.0.1", port, commandTimeout: "10 seconds" })),
        RedisClient.RedisClient
      )
      const store = yield* RedisSessionStore.make(client)
      const backend = yield* RedisCache.make(client)
      const cache = yield* Effect.provideService(
        Cache.make({ namespace: "external", schema: Schema.Struct({ name: Schema.String }), ttl: "1 hour" }),
        Cache.Cache,
        backend
      )
      const limiter = yield* Effect.provideService(
        RateLimiter.make({ name: "external", limit: 1_000_000_000, interval: "1 hour" }),
        RateLimiter.RateLimiter,
        RedisRateLimiter.make(client)
      )
      yield* Effect.forEach(
        Array.from({ length: sessions }, (_, index) => index),
        (index) =>
          Effect.zipRight(store.set(`s${index}`, peers.session(index)), cache.set(String(index), { name: "Ada" })),
        { concurrency: 50, discard: true }
      )
      const watch = yield* watching(mode)
      const visit = (session: { readonly [key: string]: unknown }) => ({
        ...session,
        visits: Number(session["visits"]) + 1
      })
      const request = (index: number): Effect.Effect<unknown, unknown> => {
        if (mode === "timers") return Effect.void
        const id = index % sessions
        return Effect.gen(function* () {
          yield* watch("session.getAndTouch")(store.getAndTouch(`s${id}`))
          yield* watch("cache.get")(cache.get(String(id)))
          yield* watch("limit.consume")(limiter.consume(String(id)))
          yield* watch("session.update")(store.update(`s${id}`, visit as never))
        })
      }
      const runFork = Runtime.runFork(yield* Layer.toRuntime(logger))
      const figures = yield* Effect.promise(() =>
        load(
          rate,
          (index, done) => runFork(request(index)).addObserver((exit) => done(Exit.isSuccess(exit))),
          () => lines
        )
      )
      yield* Effect.promise(() => new Promise<void>((resolve) => file.end(resolve)))
      return { mode, rate, ...figures }
    })
  )

/** Begins requests at their times and measures, after a while of warming up. */
const load = async (
  rate: number,
  begin: (index: number, done: (succeeded: boolean) => void) => void,
  lines: () => number
): Promise<Omit<Figures, "mode" | "rate">> => {
  const interval = 1_000 / rate
  const all = Math.round((warmMs + measuredMs) / interval)
  const first = Math.round(warmMs / interval)
  const latencies: Array<number> = []
  let failed = 0
  let begun = 0
  let ended = 0
  const started = performance.now()
  const cpuOf = (): number => {
    const { system, user } = process.cpuUsage()
    return system + user
  }
  let cpu = 0
  let linesThen = 0
  let endedThen = 0
  let heap = 0
  const launch = (index: number): void => {
    const due = started + index * interval
    begin(index, (succeeded) => {
      ended++
      if (!succeeded) failed++
      if (index >= first) latencies.push(performance.now() - due)
    })
  }
  const until = started + warmMs + measuredMs
  let isWarm = false
  while (performance.now() < until) {
    const now = performance.now()
    if (!isWarm && now >= started + warmMs) {
      isWarm = true
      cpu = cpuOf()
      linesThen = lines()
      endedThen = ended
    }
    while (begun < all && started + begun * interval <= now) launch(begun++)
    heap = Math.max(heap, process.memoryUsage().heapUsed)
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
  const seconds = (performance.now() - started - warmMs) / 1_000
  const cpuUs = cpuOf() - cpu
  const linesIn = lines() - linesThen
  const endedIn = ended - endedThen
  const rss = process.memoryUsage.rss()
  // those that are under way may end, so that theirs are latencies too
  for (const giveUp = performance.now() + drainMs; ended < begun && performance.now() < giveUp; ) {
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  // what has not ended by now takes longer than this
  if (ended < begun) for (let left = ended; left < begun; left++) latencies.push(warmMs + measuredMs + drainMs)
  return {
    perSecond: endedIn / seconds,
    failed,
    unfinished: begun - ended,
    linesPerSecond: linesIn / seconds,
    cpuPercent: cpuUs / seconds / 1e4,
    cpuUsPerRequest: cpuUs / endedIn,
    heapMiB: heap / 2 ** 20,
    rssMiB: rss / 2 ** 20,
    p50: percentile(latencies, 0.5),
    p99: percentile(latencies, 0.99),
    longest: percentile(latencies, 1)
  }
}

const [mode, rate, port] = process.argv.slice(2)
const asked = modes.find((one) => one === mode)
if (asked !== undefined) {
  const figures = await Effect.runPromise(run(asked, Number(rate), Number(port)))
  process.send?.(figures, () => process.exit(0))
} else {
  const host = machine()
  const rows = await Effect.runPromise(
    Effect.scoped(
      Effect.gen(function* () {
        const server = yield* RedisServer.make()
        const found: Array<Figures> = []
        for (const each of rates) {
          console.log(`\n${each} requests/s of 4 operations each, ${measuredMs / 1_000} s`)
          for (const one of modes) {
            const figures = yield* Effect.promise(() => inProcess(one, each, server.port))
            found.push(figures)
            console.log(
              `  ${titles[one].padEnd(46)} ${figures.perSecond.toFixed(0).padStart(5)}/s done  ` +
                `${figures.linesPerSecond.toFixed(0).padStart(5)} lines/s  CPU ${figures.cpuPercent.toFixed(1).padStart(5)} %  ` +
                `heap ${figures.heapMiB.toFixed(0).padStart(4)} MiB  p50 ${figures.p50.toFixed(2).padStart(8)} ms  ` +
                `p99 ${figures.p99.toFixed(2).padStart(8)} ms` +
                (figures.failed + figures.unfinished > 0
                  ? `  ${figures.failed} failed, ${figures.unfinished} unfinished`
                  : "")
            )
          }
        }
        return found
      })
    )
  )
  keep("redis-external", { name: "redis-external", warmMs, measuredMs, rows }, host)
  process.exit(0)
}
