/**
 * Health of the process and of what it depends on: checks register themselves, run in parallel on demand, and are
 * reported as liveness, readiness and named groups, also over HTTP.
 *
 * @since 0.1.0
 */
import type * as HttpApp from "@effect/platform/HttpApp"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Redaction from "./Redaction.ts"

/**
 * `degraded` still serves; `down` does not.
 *
 * @since 0.1.0
 * @category models
 */
export type Status = "up" | "degraded" | "down"

/**
 * What a check found. `details` are shown in reports with their secrets taken out.
 *
 * @since 0.1.0
 * @category models
 */
export interface CheckResult {
  readonly status: Status
  readonly details?: Readonly<Record<string, unknown>> | undefined
}

/**
 * One thing to look at.
 *
 * @since 0.1.0
 * @category models
 */
export interface HealthCheck {
  /** The name in reports. A second check of the same name is reported as `name#2`. */
  readonly name: string
  /**
   * The groups that the check counts for; by default `["ready"]`. Only what a restart of the process would repair belongs
   * to `"live"`: a dependency that is down does not.
   */
  readonly groups?: ReadonlyArray<string> | undefined
  /** When to give up waiting and report `down`; by default 2 seconds. */
  readonly timeout?: Duration.DurationInput | undefined
  /** How long a result answers for; by default 1 second. */
  readonly cacheFor?: Duration.DurationInput | undefined
  /** Whether the groups are down when this is; by default true. If false they are only degraded. */
  readonly critical?: boolean | undefined
  /** A failure or a defect means `down`. */
  readonly check: Effect.Effect<CheckResult, unknown>
}

/**
 * What one check found, and when.
 *
 * @since 0.1.0
 * @category models
 */
export interface CheckReport {
  readonly status: Status
  /** How long the check took, in milliseconds. */
  readonly latencyMs: number
  /** Since when it has had this status (ISO 8601). */
  readonly since: string
  /** When it was last looked at (ISO 8601). */
  readonly checkedAt: string
  readonly critical: boolean
  readonly details?: Readonly<Record<string, unknown>> | undefined
  readonly error?: { readonly tag: string; readonly message: string } | undefined
}

/**
 * The health of a group: the worst of its checks.
 *
 * @since 0.1.0
 * @category models
 */
export interface HealthReport {
  readonly status: Status
  readonly checks: Readonly<Record<string, CheckReport>>
}

/**
 * The registry of checks.
 *
 * @since 0.1.0
 * @category tags
 */
export class Health extends Context.Tag("@underlay/core/Health")<
  Health,
  {
    /** Adds a check until the scope closes. */
    readonly register: (check: HealthCheck) => Effect.Effect<void, never, Scope.Scope>
    /**
     * The health of one group (`"live"`, `"ready"`, or a name that checks gave), or of everything. A group without checks
     * is up. Never fails and never takes longer than the longest timeout of its checks.
     */
    readonly report: (group?: string) => Effect.Effect<HealthReport>
    /** The groups that exist at present: `live`, `ready` and those that checks gave. */
    readonly groups: Effect.Effect<ReadonlyArray<string>>
  }
>() {}

/**
 * The thing is up.
 *
 * @since 0.1.0
 * @category constructors
 */
export const up = (details?: Readonly<Record<string, unknown>>): CheckResult =>
  details === undefined ? { status: "up" } : { status: "up", details }

/**
 * The thing serves, but not as it should.
 *
 * @since 0.1.0
 * @category constructors
 */
export const degraded = (details?: Readonly<Record<string, unknown>>): CheckResult =>
  details === undefined ? { status: "degraded" } : { status: "degraded", details }

/**
 * The thing does not serve.
 *
 * @since 0.1.0
 * @category constructors
 */
export const down = (details?: Readonly<Record<string, unknown>>): CheckResult =>
  details === undefined ? { status: "down" } : { status: "down", details }

const rank: Record<Status, number> = { up: 0, degraded: 1, down: 2 }

/**
 * The worse of two.
 *
 * @since 0.1.0
 * @category combinators
 */
export const worst = (a: Status, b: Status): Status => (rank[a] >= rank[b] ? a : b)

// One registered check. The fields change only between two steps of a fiber, so that plain state is safe.
interface Entry {
  readonly key: string
  readonly groups: ReadonlySet<string>
  readonly critical: boolean
  readonly timeout: Duration.Duration
  readonly cacheFor: number
  readonly check: Effect.Effect<CheckResult, unknown>
  last: { readonly report: CheckReport; readonly at: number } | undefined
  flight: Deferred.Deferred<CheckReport> | undefined
  work: { readonly fiber: Fiber.RuntimeFiber<CheckResult, unknown>; readonly since: number } | undefined
  status: { readonly is: Status; readonly since: number } | undefined
}

const iso = (millis: number): string => new Date(millis).toISOString()

const failureOf = (cause: Cause.Cause<unknown>): { readonly tag: string; readonly message: string } =>
  Option.match(Cause.failureOption(cause), {
    onSome: Redaction.error,
    onNone: () =>
      Cause.isInterruptedOnly(cause)
        ? { tag: "Interrupted", message: "the check was interrupted" }
        : Redaction.error(Cause.squash(cause))
  })

const settle = (
  entry: Entry,
  started: number,
  found: Pick<CheckReport, "status" | "details" | "error">
): Effect.Effect<CheckReport> =>
  Effect.map(Clock.currentTimeMillis, (now) => {
    if (entry.status === undefined || entry.status.is !== found.status) {
      entry.status = { is: found.status, since: now }
    }
    const report: CheckReport = {
      status: found.status,
      latencyMs: now - started,
      since: iso(entry.status.since),
      checkedAt: iso(now),
      critical: entry.critical,
      ...(found.details === undefined ? {} : { details: Redaction.record(found.details) }),
      ...(found.error === undefined ? {} : { error: found.error })
    }
    entry.last = { report, at: now }
    return report
  })

// The work runs in a fiber of its own, so that the report is on time even over work that cannot be interrupted. While
// such an orphan is still running no further one is started.
const observe = Effect.fnUntraced(function* (entry: Entry, started: number) {
  if (entry.work !== undefined) {
    return yield* settle(entry, started, {
      status: "down",
      error: {
        tag: "CheckTimeout",
        message: `the check that began at ${iso(entry.work.since)} has still not ended`
      }
    })
  }
  const fiber = yield* Effect.forkDaemon(Effect.interruptible(entry.check))
  entry.work = { fiber, since: started }
  fiber.addObserver(() => {
    entry.work = undefined
  })
  const outcome = yield* Fiber.await(fiber).pipe(Effect.timeoutOption(entry.timeout))
  if (Option.isNone(outcome)) {
    yield* Fiber.interruptFork(fiber)
    return yield* settle(entry, started, {
      status: "down",
      error: { tag: "CheckTimeout", message: `no answer within ${Duration.format(entry.timeout)}` }
    })
  }
  return yield* settle(
    entry,
    started,
    Exit.match(outcome.value, {
      onSuccess: (result) => ({ status: result.status, details: result.details }),
      onFailure: (cause) => ({ status: "down", error: failureOf(cause) })
    })
  )
})

const look = (entry: Entry): Effect.Effect<CheckReport> =>
  Effect.flatMap(Clock.currentTimeMillis, (started) =>
    Effect.catchAllDefect(observe(entry, started), () =>
      settle(entry, started, {
        status: "down",
        error: { tag: "CheckUnreadable", message: "what the check gave cannot be read" }
      })
    )
  )

/**
 * Makes an empty registry. Checks that are running when its scope closes are interrupted.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: Effect.Effect<typeof Health.Service, never, Scope.Scope> = Effect.gen(function* () {
  const entries = new Map<string, Entry>()

  yield* Effect.addFinalizer(() =>
    Effect.forEach(
      entries.values(),
      (entry) => (entry.work === undefined ? Effect.void : Fiber.interruptFork(entry.work.fiber)),
      { discard: true }
    )
  )

  const keyFor = (name: string): string => {
    if (!entries.has(name)) {
      return name
    }
    let n = 2
    while (entries.has(`${name}#${n}`)) {
      n++
    }
    return `${name}#${n}`
  }

  const register = (check: HealthCheck): Effect.Effect<void, never, Scope.Scope> =>
    Effect.asVoid(
      Effect.acquireRelease(
        Effect.sync(() => {
          const entry: Entry = {
            key: keyFor(check.name),
            groups: new Set(check.groups ?? ["ready"]),
            critical: check.critical ?? true,
            timeout: Duration.decode(check.timeout ?? "2 seconds"),
            cacheFor: Duration.toMillis(check.cacheFor ?? "1 second"),
            // The result is shared, so nothing of the one who happens to ask may reach the check: neither the correlation
            // id nor the deadline nor the parent span.
            check: Effect.mapInputContext(check.check, () => Context.empty()),
            last: undefined,
            flight: undefined,
            work: undefined,
            status: undefined
          }
          entries.set(entry.key, entry)
          return entry
        }),
        (entry) =>
          Effect.suspend(() => {
            entries.delete(entry.key)
            return entry.work === undefined ? Effect.void : Fiber.interruptFork(entry.work.fiber)
          })
      )
    )

  // From setting the flight to forking it nothing may interrupt: a flight without a fiber would never land.
  const ask = (entry: Entry): Effect.Effect<CheckReport> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        if (entry.last !== undefined && now - entry.last.at < entry.cacheFor) {
          return Effect.succeed(entry.last.report)
        }
        if (entry.flight !== undefined) {
          return restore(Deferred.await(entry.flight))
        }
        const flight = Deferred.unsafeMake<CheckReport>(FiberId.none)
        entry.flight = flight
        return look(entry).pipe(
          Effect.interruptible,
          Effect.onExit((exit) =>
            Effect.suspend(() => {
              entry.flight = undefined
              return Deferred.done(flight, exit)
            })
          ),
          Effect.forkDaemon,
          Effect.andThen(restore(Deferred.await(flight)))
        )
      })
    )

  const report = (group?: string): Effect.Effect<HealthReport> =>
    Effect.suspend(() => {
      const asked = Array.from(entries.values()).filter((entry) => group === undefined || entry.groups.has(group))
      return Effect.map(Effect.forEach(asked, ask, { concurrency: "unbounded" }), (reports) => {
        const checks: Record<string, CheckReport> = {}
        let status: Status = "up"
        asked.forEach((entry, index) => {
          const found = reports[index]
          if (found !== undefined) {
            checks[entry.key] = found
            status = worst(status, found.status === "down" && !found.critical ? "degraded" : found.status)
          }
        })
        return { status, checks }
      })
    })

  const groups = Effect.sync(() => {
    const all = new Set(["live", "ready"])
    for (const entry of entries.values()) {
      for (const group of entry.groups) {
        all.add(group)
      }
    }
    return Array.from(all)
  })

  return Health.of({ register, report, groups })
})

/**
 * The registry, empty: layers built above it register themselves.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Health> = Layer.scoped(Health, make)

/**
 * Registers a check until the scope closes, if there is a `Health` to register it with; otherwise does nothing. This is
 * how a client makes itself known without asking for the service.
 *
 * @since 0.1.0
 * @category combinators
 */
export const register = (check: HealthCheck): Effect.Effect<void, never, Scope.Scope> =>
  Effect.flatMap(
    Effect.serviceOption(Health),
    Option.match({
      onNone: () => Effect.void,
      onSome: (health) => health.register(check)
    })
  )

/**
 * A layer that only registers a check.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerCheck = (check: HealthCheck): Layer.Layer<never> => Layer.scopedDiscard(register(check))

const respond = (report: HealthReport): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.unsafeJson(report, {
    status: report.status === "down" ? 503 : 200,
    headers: { "cache-control": "no-store" }
  })

/**
 * The routes `/health` (everything), `/health/live`, `/health/ready` and `/health/<group>`: the report as JSON, with
 * status 503 if it is down and 404 if there is no such group.
 *
 * @since 0.1.0
 * @category http
 */
export const routes: HttpRouter.HttpRouter<never, Health> = HttpRouter.empty.pipe(
  HttpRouter.get(
    "/health",
    Effect.flatMap(Health, (health) => Effect.map(health.report(), respond))
  ),
  HttpRouter.get(
    "/health/:group",
    Effect.gen(function* () {
      const health = yield* Health
      const { group } = yield* HttpRouter.params
      return group !== undefined && (yield* health.groups).includes(group)
        ? respond(yield* health.report(group))
        : HttpServerResponse.unsafeJson({ error: "no such group of health checks" }, { status: 404 })
    })
  )
)

/**
 * The routes as an application of their own; everything else is 404.
 *
 * @since 0.1.0
 * @category http
 */
export const httpApp: HttpApp.Default<never, Health> = Effect.catchTag(routes, "RouteNotFound", () =>
  HttpServerResponse.empty({ status: 404 })
)
