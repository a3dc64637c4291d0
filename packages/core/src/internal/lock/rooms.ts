/**
 * Where those wait who want a lock: one room for each lock, with one subscription for all in it.
 */
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import type { Backend, Listener, Request } from "./model.ts"

/** One who waits. */
export interface Waiter {
  /** An attempt begins: what wakes from now on is for the next one. */
  readonly begin: () => void
  /** Sleeps until it is woken, or as long as `timer` runs. */
  readonly sleep: (timer: Effect.Effect<void>) => Effect.Effect<void>
  /** Whether it is told when the lock is freed. */
  readonly isHeard: () => boolean
  readonly leave: () => void
}

export interface Rooms {
  readonly enter: (request: Request) => Waiter
}

interface Place {
  readonly request: Request
  isWoken: boolean
  wake: (() => void) | undefined
}

interface Room {
  readonly places: Set<Place>
  isHeard: boolean
  listening: Fiber.RuntimeFiber<void> | undefined
}

export const make = (options: {
  readonly backend: Backend
  readonly run: (effect: Effect.Effect<void>) => Fiber.RuntimeFiber<void>
}): Rooms => {
  const { backend, run } = options
  const rooms = new Map<string, Room>()

  const wake = (place: Place): void => {
    place.isWoken = true
    const resume = place.wake
    place.wake = undefined
    resume?.()
  }

  /** Wakes every reader, and the first of the others. */
  const wakeSome = (room: Room): void => {
    let one = false
    for (const place of room.places) {
      if (place.request.kind === "shared") wake(place)
      else if (!one && !place.isWoken) {
        one = true
        wake(place)
      }
    }
  }

  const open = (name: string, request: Request): Room => {
    const places = new Set<Place>()
    const listener: Listener = {
      wake: (owner) => {
        if (owner === undefined) return wakeSome(room)
        for (const place of places) if (place.request.owner === owner) wake(place)
      },
      ready: () => {
        room.isHeard = true
        // what was said before was not heard
        for (const place of places) wake(place)
      },
      lost: () => {
        room.isHeard = false
        for (const place of places) wake(place)
      }
    }
    const room: Room = { places, isHeard: false, listening: undefined }
    rooms.set(name, room)
    if (backend.listen !== undefined) {
      const listening = Effect.scoped(Effect.zipRight(backend.listen(request, listener), Effect.never))
      // who cannot listen looks again from time to time
      room.listening = run(Effect.ignore(listening))
    }
    return room
  }

  return {
    enter: (request) => {
      const name = `${request.kind === "permit" ? "p" : "l"}:${request.key}`
      const room = rooms.get(name) ?? open(name, request)
      const place: Place = { request, isWoken: false, wake: undefined }
      room.places.add(place)
      return {
        begin: () => {
          place.isWoken = false
        },
        sleep: (timer) =>
          Effect.raceFirst(
            Effect.async<void>((resume) => {
              if (place.isWoken) return resume(Effect.void)
              place.wake = () => resume(Effect.void)
              return Effect.sync(() => {
                place.wake = undefined
              })
            }),
            timer
          ),
        isHeard: () => room.isHeard,
        leave: () => {
          room.places.delete(place)
          if (room.places.size === 0) {
            if (rooms.get(name) === room) rooms.delete(name)
            room.listening?.unsafeInterruptAsFork(FiberId.none)
          } else if (place.isWoken) {
            // it was woken and goes: the next one may try
            wakeSome(room)
          }
        }
      }
    }
  }
}
