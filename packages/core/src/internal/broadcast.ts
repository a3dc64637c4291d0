/**
 * Events to whoever listens. Without a listener nothing is built, kept or said: whoever would emit asks first.
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"

/** Events of one kind. */
export interface Broadcast<A> {
  /** Whether anybody listens. Where nobody does, no event need be made. */
  readonly isActive: () => boolean
  /** Hands an event to everyone who listens, at once and in order. */
  readonly emit: (event: A) => void
  /** What is emitted from the moment on in which the stream begins to run. Does not end. */
  readonly stream: Stream.Stream<A>
}

/** What a listener may be behind before it misses the oldest of what it has not taken. */
const backlog = 4_096

export const make = <A>(): Broadcast<A> => {
  const listeners = new Set<(event: A) => unknown>()
  return {
    isActive: () => listeners.size > 0,
    emit: (event) => {
      for (const listener of listeners) listener(event)
    },
    stream: Stream.asyncPush<A>(
      (emit) => {
        const listener = (event: A) => emit.single(event)
        return Effect.acquireRelease(
          Effect.sync(() => listeners.add(listener)),
          () => Effect.sync(() => listeners.delete(listener))
        )
      },
      { bufferSize: backlog, strategy: "sliding" }
    )
  }
}
