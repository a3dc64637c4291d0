/**
 * opossum as the conformance cases see it: as its README has it, and with everything set that its README knows.
 */
import { EventEmitter } from "node:events"
import type { ResilienceSuite } from "@underlay/core/testing"
import { Effect } from "effect"
import Opossum from "opossum"
import { nest, type Run, type Runs, start } from "./promised.ts"

const features: ReadonlyArray<ResilienceSuite.Feature> = [
  "abort-on-timeout",
  "bulkhead",
  "changes",
  "coalescing",
  "disabled",
  "fallback",
  "health-check",
  "restore",
  "time-window"
]

const codeOf = (error: unknown): string | undefined => {
  const code: unknown = error instanceof Error ? Reflect.get(error, "code") : undefined
  return typeof code === "string" ? code : undefined
}

const kinds: Readonly<Record<string, ResilienceSuite.Kind>> = {
  EOPENBREAKER: "open",
  ESEMLOCKED: "full",
  ETIMEDOUT: "timeout"
}

const kindOf = (error: unknown): ResilienceSuite.Kind => kinds[codeOf(error) ?? ""] ?? "error"

/** What a careful user leaves out: refusals of circuits themselves, and callers that gave up. */
const careful = (error: unknown): boolean =>
  codeOf(error) === "EOPENBREAKER" ||
  codeOf(error) === "ESEMLOCKED" ||
  (error instanceof Error && error.name === "AbortError")

const counting = (settings: ResilienceSuite.Settings, tuned: boolean): Opossum.Options => {
  const trip = settings.breaker?.trip
  if (trip === undefined) return { volumeThreshold: Number.MAX_SAFE_INTEGER }
  switch (trip.type) {
    // It counts no failures in a row: the nearest is a rate with a volume.
    case "consecutive":
      return { volumeThreshold: trip.failures, errorThresholdPercentage: trip.failures === 1 ? 0 : 50 }
    case "rate": {
      const volume = trip.minimumCalls ?? (tuned ? trip.size : undefined)
      return {
        errorThresholdPercentage: trip.rate * 100,
        ...(volume === undefined ? {} : { volumeThreshold: volume })
      }
    }
    case "time":
      return {
        errorThresholdPercentage: trip.rate * 100,
        rollingCountTimeout: trip.span,
        volumeThreshold: trip.minimumCalls
      }
  }
}

type Circuit = Opossum<[ResilienceSuite.Leaf, AbortSignal], unknown>

const savedState = (saved: unknown): Opossum.State | undefined =>
  typeof saved === "object" && saved !== null ? (Reflect.get(saved, "state") as Opossum.State) : undefined

/**
 * `tuned`: refusals and callers that gave up are left out, rates have a volume, timeouts abort, and all breakers share one
 * timer.
 */
export const driver = (time: ResilienceSuite.Time, tuned: boolean): ResilienceSuite.Driver => {
  const rotation = new EventEmitter().setMaxListeners(0)
  const options = (settings: ResilienceSuite.Settings): Opossum.Options => ({
    timeout: settings.timeout ?? false,
    ...(settings.timeout === undefined || !tuned
      ? {}
      : { abortController: new AbortController(), autoRenewAbortController: true }),
    ...(settings.breaker === undefined ? {} : { resetTimeout: settings.breaker.openFor }),
    ...(settings.bulkhead === undefined ? {} : { capacity: settings.bulkhead.maxConcurrent }),
    ...counting(settings, tuned),
    ...(settings.breaker?.ignore === undefined
      ? tuned
        ? { errorFilter: careful }
        : {}
      : { errorFilter: settings.breaker.ignore }),
    ...(tuned && settings.breaker?.trip.type === "consecutive"
      ? { rotateBucketController: rotation, enableSnapshots: false }
      : {})
  })
  const make = (settings: ResilienceSuite.Settings): Runs => {
    const state = savedState(settings.breaker?.restore)
    // Kept, since the controller of the moment is only to be found there.
    const given: Opossum.Options = { ...options(settings), ...(state === undefined ? {} : { state }) }
    const circuit: Circuit = new Opossum((leaf: ResilienceSuite.Leaf, signal: AbortSignal) => leaf(signal), given)
    const { fallback } = settings
    if (fallback !== undefined) circuit.fallback(() => fallback(undefined))
    const execute: Run = (leaf, caller) => {
      const signals = [caller, given.abortController?.signal].filter((signal) => signal !== undefined)
      const [only] = signals
      return circuit.fire(leaf, signals.length === 1 && only !== undefined ? only : AbortSignal.any(signals))
    }
    return {
      execute,
      start: start(time, execute, kindOf),
      state: Effect.sync(() => (circuit.opened ? "open" : circuit.halfOpen ? "half-open" : "closed")),
      shown: Effect.sync(() => ({ json: circuit.toJSON(), stats: circuit.stats })),
      setMode: (mode) => Effect.sync(() => (mode === "disabled" ? circuit.disable() : circuit.enable())),
      saved: Effect.sync(() => circuit.toJSON()),
      changes: Effect.sync(() => {
        const seen: Array<ResilienceSuite.State> = []
        circuit.on("open", () => seen.push("open"))
        circuit.on("halfOpen", () => seen.push("half-open"))
        circuit.on("close", () => seen.push("closed"))
        return () => seen
      }),
      watchHealth: Effect.sync(() => circuit.healthCheck(() => Promise.resolve(), 5_000)),
      shutdown: Effect.sync(() => circuit.shutdown())
    }
  }
  return {
    name: "opossum",
    features: new Set(features),
    time,
    make: (settings) => Effect.try(() => make(settings)),
    nest: nest(time, kindOf),
    coalesce: (load) =>
      Effect.sync(() => {
        // Newer than its types.
        const coalescing = { timeout: false as const, coalesce: true, coalesceTTL: 1_000 }
        const circuit = new Opossum(() => load(new AbortController().signal), coalescing)
        return { get: start(time, () => circuit.fire(), kindOf)(load) }
      })
  }
}
