/**
 * Histories of locks and of what they guard: whether two held a lock at once, whether fencing tokens went on, and
 * whether the guarded resource was written by somebody who came late, on what was not there any more, or twice.
 *
 * @since 0.1.0
 */

/**
 * One asking for the lock, and what was done under it, as plain data. Times are of one monotonic clock that all clients
 * share, in any unit.
 *
 * @since 0.1.0
 * @category models
 */
export interface Hold {
  readonly client: string
  /** When the lock was asked for. */
  readonly asked: number
  /** When it was known to be had: the work began. */
  readonly began: number
  /** When the work was over. */
  readonly ended: number
  /** Whether the lock is said to have been held until then. */
  readonly held: boolean
  /** The fencing token in decimal, where the lock has one. */
  readonly token?: string | undefined
  /** What was written to the resource under the lock. */
  readonly write?: HoldWrite | undefined
}

/**
 * A read-modify-write of the resource. `mark` is unique to it, `seen` is the mark that was read.
 *
 * @since 0.1.0
 * @category models
 */
export interface HoldWrite {
  readonly mark: string
  readonly seen: string
  readonly outcome: "Done" | "NotDone" | "Unknown"
}

/**
 * A write as the resource took it down, in its own order.
 *
 * @since 0.1.0
 * @category models
 */
export interface Written {
  readonly mark: string
  readonly seen: string
}

/**
 * What went wrong.
 *
 * - `TwoHolders`: two held the lock at once, and both were told that they did to the end.
 * - `TokenOrder`: a later holder had no greater fencing token.
 * - `LateWrite`: a holder wrote after one who had the lock later.
 * - `LostUpdate`: a write was made on what was not the newest any more.
 * - `Twice`, `Missing`, `NotAsked`: a write is there more than once; is not there though it was answered; is there though
 *   it was said not to be done, or nobody asked for it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Anomaly {
  readonly _tag: "TwoHolders" | "TokenOrder" | "LateWrite" | "LostUpdate" | "Twice" | "Missing" | "NotAsked"
  readonly description: string
}

/**
 * Everything that went wrong with one lock. `written` is what the resource took down, in its order, from its beginning;
 * the first write saw `origin`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const check = (
  holds: ReadonlyArray<Hold>,
  written: ReadonlyArray<Written>,
  origin = ""
): ReadonlyArray<Anomaly> => [...twoHolders(holds), ...tokenOrder(holds), ...writes(holds, written, origin)]

const twoHolders = (holds: ReadonlyArray<Hold>): ReadonlyArray<Anomaly> => {
  const found: Array<Anomaly> = []
  let last: Hold | undefined
  for (const hold of holds.filter((one) => one.held).sort((a, b) => a.began - b.began)) {
    if (last !== undefined && hold.began < last.ended) {
      found.push({ _tag: "TwoHolders", description: `${nameOf(last)} and ${nameOf(hold)} held it at once` })
    }
    if (last === undefined || hold.ended > last.ended) last = hold
  }
  return found
}

const tokenOrder = (holds: ReadonlyArray<Hold>): ReadonlyArray<Anomaly> => {
  const found: Array<Anomaly> = []
  const withToken = holds.flatMap((hold) => (hold.token === undefined ? [] : [{ hold, token: BigInt(hold.token) }]))
  const tokens = new Set<bigint>()
  for (const { hold, token } of withToken) {
    if (tokens.has(token)) found.push({ _tag: "TokenOrder", description: `${nameOf(hold)} has another's token` })
    tokens.add(token)
  }
  // the greatest token of those who had theirs before this one asked
  const byBegin = [...withToken].sort((a, b) => a.hold.began - b.hold.began)
  let next = 0
  let greatest: (typeof withToken)[number] | undefined
  for (const one of [...withToken].sort((a, b) => a.hold.asked - b.hold.asked)) {
    for (
      let before = byBegin[next];
      before !== undefined && before.hold.began < one.hold.asked;
      before = byBegin[next]
    ) {
      if (greatest === undefined || before.token > greatest.token) greatest = before
      next++
    }
    if (greatest !== undefined && one.token <= greatest.token) {
      const description = `${nameOf(one.hold)} came after ${nameOf(greatest.hold)} and has no greater token`
      found.push({ _tag: "TokenOrder", description })
    }
  }
  return found
}

const writes = (
  holds: ReadonlyArray<Hold>,
  written: ReadonlyArray<Written>,
  origin: string
): ReadonlyArray<Anomaly> => {
  const found: Array<Anomaly> = []
  const writers = new Map(holds.flatMap((hold) => (hold.write === undefined ? [] : [[hold.write.mark, hold]])))
  const marks = new Set<string>()
  let newest = origin
  let latest: Hold | undefined
  for (const { mark, seen } of written) {
    if (seen !== newest) {
      found.push({ _tag: "LostUpdate", description: `${mark} was written on ${seen} when ${newest} was the newest` })
    }
    newest = mark
    if (marks.has(mark)) found.push({ _tag: "Twice", description: `${mark} was written twice` })
    marks.add(mark)
    const writer = writers.get(mark)
    if (writer?.write === undefined || writer.write.outcome === "NotDone") {
      found.push({ _tag: "NotAsked", description: `${mark} was written and should not have been` })
      continue
    }
    if (latest !== undefined && isLater(latest, writer)) {
      found.push({ _tag: "LateWrite", description: `${nameOf(writer)} wrote after ${nameOf(latest)}` })
    } else latest = writer
  }
  for (const [mark, { write }] of writers) {
    if (write?.outcome === "Done" && !marks.has(mark)) {
      found.push({ _tag: "Missing", description: `${mark} was answered and is not there` })
    }
  }
  return found
}

/** Whether one had the lock after the other: by their tokens, or by when they had it for sure. */
const isLater = (one: Hold, other: Hold): boolean =>
  one.token !== undefined && other.token !== undefined
    ? BigInt(one.token) > BigInt(other.token)
    : one.asked > other.began

const nameOf = ({ began, client, ended, token }: Hold): string =>
  `${client} [${began} .. ${ended}]${token === undefined ? "" : ` #${token}`}`
