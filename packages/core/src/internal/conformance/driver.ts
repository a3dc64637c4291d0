/**
 * What a conformance case is given: a library's guards (breaker, retry, timeout, bulkhead round a call) and a time that the
 * case moves. The work that is guarded is made of promises and signals, which every library takes.
 */
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

/** A part that a library may lack. A case that needs what is not there does not apply. */
export type Feature =
  | "abort-on-timeout"
  | "bulkhead"
  | "caller-signal"
  | "changes"
  | "coalescing"
  | "count-window"
  | "disabled"
  | "fallback"
  | "forced-open"
  | "growing-open-time"
  | "health-check"
  | "jitter"
  | "queue"
  | "restore"
  | "retry"
  | "retry-of-answers"
  | "time-window"
  | "total-timeout"
  /** What only `@underlay/core` is asked: its own modules are called. */
  | "underlay"

/** What opens a circuit. `consecutive`: failures in a row. `rate`: a part of the last `size` calls, or of the last `span` ms. */
export type Trip =
  | { readonly type: "consecutive"; readonly failures: number }
  | { readonly type: "rate"; readonly rate: number; readonly size: number; readonly minimumCalls?: number }
  | { readonly type: "time"; readonly rate: number; readonly span: number; readonly minimumCalls: number }

/** A guard's parts; a part that is not named is not there. Durations in milliseconds. */
export interface Settings {
  readonly breaker?: {
    readonly trip: Trip
    /** For how long it stays open; with `factor`, that much longer each time. */
    readonly openFor: number
    readonly factor?: number
    /** Errors that say nothing of the service. */
    readonly ignore?: (error: unknown) => boolean
    /** What `saved` gave, in another process. */
    readonly restore?: unknown
  }
  readonly retry?: {
    /** The first time included. */
    readonly attempts: number
    readonly delay: number
    readonly factor?: number
    readonly maxDelay?: number
    readonly jitter?: boolean
    /** Answers that are as good as failures. */
    readonly unwanted?: (answer: unknown) => boolean
  }
  /** The limit of each attempt. */
  readonly timeout?: number
  /** The limit of the whole call. */
  readonly total?: number
  readonly bulkhead?: { readonly maxConcurrent: number; readonly maxQueue?: number }
  /** What is answered in place of an error. */
  readonly fallback?: (error: unknown) => unknown
}

/** The guarded work. It may throw at once, and should end when the signal is aborted. */
export type Leaf = (signal: AbortSignal) => Promise<unknown>

/** Why a call failed, by what its library fails with. `error` is the work's own. */
export type Kind = "error" | "open" | "full" | "timeout" | "cancelled"

export type Result =
  | { readonly ok: true; readonly value: unknown; readonly at: number }
  | { readonly ok: false; readonly kind: Kind; readonly error: unknown; readonly at: number }

/** A call under way. */
export interface Call {
  /** How it ended; undefined as long as it has not. */
  readonly result: () => Result | undefined
  /** The caller gives up. */
  readonly cancel: Effect.Effect<void>
}

export interface CallOptions {
  /** The work does not mind being told to stop. */
  readonly deaf?: boolean
  /** Nobody will give it up: where calls take a signal, this one has none. */
  readonly unwatched?: boolean
}

export type State = "closed" | "open" | "half-open"

export interface Guard {
  /** Begins a call. What happens in it happens as `time` is moved, be it by nothing. */
  readonly start: (leaf: Leaf, options?: CallOptions) => Effect.Effect<Call>
  /** The breaker's state as the library shows it at this moment. */
  readonly state: Effect.Effect<State>
  /** Everything that it shows of itself. */
  readonly shown: Effect.Effect<unknown>
  /** Where the library lets one: refuses all, lets all pass, or goes back to work. */
  readonly setMode?: (mode: "forced-open" | "disabled" | "automatic") => Effect.Effect<void>
  /** The breaker's state for another process. */
  readonly saved?: Effect.Effect<unknown>
  /** The states that its listeners were told of, from now on. */
  readonly changes?: Effect.Effect<() => ReadonlyArray<State>>
  /** Watches it as its health is watched in production, until it is shut down. */
  readonly watchHealth?: Effect.Effect<void>
  /** Has done with it. */
  readonly shutdown: Effect.Effect<void>
}

/** The time that everything goes by. */
export interface Time {
  readonly now: () => number
  /** Lets so much time pass and everything happen that is due then. By 0: what needs no time. */
  readonly advance: (millis: number) => Effect.Effect<void>
  /** The clock on the wall is set, as an administrator or NTP does it. Timers do not notice. */
  readonly step: (millis: number) => Effect.Effect<void>
  /** Timers that are pending, and those of them that keep the process from ending. */
  readonly timers: () => { readonly pending: number; readonly holding: number }
  /** What the process warned of. */
  readonly warnings: () => ReadonlyArray<string>
}

/** A library as the cases see it. */
export interface Driver {
  readonly name: string
  readonly features: ReadonlySet<Feature>
  readonly time: Time
  readonly make: (settings: Settings) => Effect.Effect<Guard, unknown>
  /** Guards round each other, outermost first. */
  readonly nest: (guards: readonly [Guard, ...Array<Guard>]) => Guard
  /** One load for all who ask at once. */
  readonly coalesce?: (load: Leaf) => Effect.Effect<{ readonly get: Effect.Effect<Call> }, unknown, Scope.Scope>
}

/** One behaviour. */
export interface Case {
  /** Stable: what results are compared by. */
  readonly id: string
  readonly title: string
  /** Where it was complained of, or whose fault was reproduced. */
  readonly sources: ReadonlyArray<string>
  readonly needs: ReadonlyArray<Feature>
  readonly run: (driver: Driver) => Effect.Effect<void, unknown, Scope.Scope>
}
