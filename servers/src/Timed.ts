/** How long an effect takes, on a machine that has other work. */
import * as Effect from "effect/Effect"

/**
 * How long the machine keeps this process from running: a timer that is later than its time, less what the process itself
 * computed meanwhile, for a client that holds up its own process is slow and not held up. One timer for all who measure,
 * while somebody does.
 */
const machine = (() => {
  const every = 10
  const usual = 3
  let measuring = 0
  let timer: ReturnType<typeof setInterval> | undefined
  let seen = 0
  let computed = 0
  let stalled = 0
  const look = (): void => {
    const [now, cpu] = [performance.now(), process.cpuUsage()]
    const computedNow = (cpu.user + cpu.system) / 1_000
    const late = now - seen - every - (computedNow - computed)
    // Every timer is a little late, on an idle machine too.
    if (late > usual) stalled += late - usual
    seen = now
    computed = computedNow
  }
  return {
    begin: (): number => {
      if (measuring++ === 0) {
        const cpu = process.cpuUsage()
        seen = performance.now()
        computed = (cpu.user + cpu.system) / 1_000
        timer = setInterval(look, every).unref()
      } else look()
      return stalled
    },
    /** The milliseconds since `begin`. */
    since: (stalledThen: number): number => {
      look()
      return stalled - stalledThen
    },
    end: (): void => {
      if (--measuring === 0) clearInterval(timer)
    }
  }
})()

/**
 * How long an effect takes by the machine's own clock, in milliseconds: less what the machine kept this process from
 * running meanwhile, for two cores are shared with much else; and in all.
 */
export const timed = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<readonly [value: A, took: number, inAll: number], E, R> =>
  Effect.suspend(() => {
    const stalled = machine.begin()
    const started = performance.now()
    return Effect.ensuring(
      Effect.map(effect, (value) => {
        const inAll = performance.now() - started
        return [value, Math.max(0, inAll - machine.since(stalled)), inAll] as const
      }),
      Effect.sync(machine.end)
    )
  })
