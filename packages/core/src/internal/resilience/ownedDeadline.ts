/**
 * Whose a deadline is. Effect gives a fiber that joins another one what has changed in that one's context, and so a
 * deadline too, which was set for work that is over then. What has set it is kept beside the context, in a reference that
 * notices when it is joined.
 */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"

interface Owned {
  /** What was set for this fiber, or for one that it was forked by; infinite if nothing was. */
  readonly deadline: number
  /** What came to it by a join. */
  readonly joined: number | undefined
}

const none: Owned = { deadline: Number.POSITIVE_INFINITY, joined: undefined }

/** What a fiber has of its own, and what it was given. */
export const ref: FiberRef.FiberRef<Owned> = FiberRef.unsafeMake(none, {
  // What the other one was given itself is what its context has.
  join: (own, theirs) => ({ deadline: own.deadline, joined: theirs.joined ?? theirs.deadline })
})

/** The deadline of a fiber whose context has this one. */
export const of = (fiber: Fiber.RuntimeFiber<unknown, unknown>, found: number): number => {
  if (found === Number.POSITIVE_INFINITY) return found
  const own = fiber.getFiberRef(ref)
  return own.joined === found ? own.deadline : found
}

/** Runs the effect as the owner of the deadline. */
export const within = <A, E, R>(effect: Effect.Effect<A, E, R>, deadline: number): Effect.Effect<A, E, R> =>
  Effect.locally(effect, ref, { deadline, joined: undefined })

/** The references of a fiber, for a child that owns the deadline. */
export const give = (
  parent: Fiber.RuntimeFiber<unknown, unknown>,
  context: Context.Context<never>,
  key: string
): FiberRefs.FiberRefs => {
  const refs = parent.getFiberRefs()
  const deadline: unknown = context.unsafeMap.get(key)
  if (typeof deadline !== "number" || deadline === Number.POSITIVE_INFINITY) return refs
  return FiberRefs.updateAs(refs, { fiberId: parent.id(), fiberRef: ref, value: { deadline, joined: undefined } })
}
