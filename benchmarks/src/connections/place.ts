/** What the comparisons of connections share. */
import { type Context, Effect, Layer, type Scope } from "effect"
import * as Load from "../redis/Load.ts"

/** One area: makes its servers and clients, compares, and gives the tables. */
export type Comparing = Effect.Effect<ReadonlyArray<Load.Result>, unknown, Scope.Scope>

/** The CPU of the servers is not measured here: they are several processes each. */
export const noServerCpu: Load.ServerCpu = async () => 0

/** Runs one comparison. */
export const compared = (comparison: Load.Comparison): Effect.Effect<Load.Result> =>
  Effect.promise(() => Load.compare(comparison, noServerCpu))

/** Fails the run where a subject does not do what it is measured for. */
export const checked = (
  subjects: ReadonlyArray<Load.Subject>,
  holds: (answer: unknown) => boolean
): Effect.Effect<ReadonlyArray<Load.Subject>> =>
  Effect.promise(async () => {
    for (const subject of subjects) {
      const answer =
        subject.effect === undefined ? await subject.promise?.(0)() : await Effect.runPromise(subject.effect(0))
      if (!holds(answer)) throw new Error(`${subject.name} does not do what it is measured for`)
    }
    return subjects
  })

/** The services of a layer, for the life of the scope. */
export const built = <A, E>(layer: Layer.Layer<A, E>): Effect.Effect<Context.Context<A>, E, Scope.Scope> =>
  Layer.build(layer)

/** A client of a peer that is closed when the scope is. */
export const peer = <A>(
  open: () => A | Promise<A>,
  close: (client: A) => unknown
): Effect.Effect<A, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => open()),
    (client) => Effect.promise(async () => close(client))
  )
