/**
 * What every decoder of a streamed answer does alike, whatever its format: read until the last word or the first failure,
 * conclude, and tell what had arrived when the connection breaks.
 */
import type { LlmToolCall } from "../LlmResponse.ts"
import { type StreamDecoder, truncatedBy } from "../protocol/Protocol.ts"
import type { Assembly } from "./assembly.ts"
import type { CallContext } from "./classify.ts"

/** What is particular to a format. */
export interface Format {
  readonly read: (bytes: Uint8Array) => void
  /** The body has ended: what the reader still holds is read. */
  readonly readEnd: () => void
  /** Whether the last word has come: nothing is read after it. */
  readonly over: () => boolean
  /** Finishes the answer, or fails it for want of its end. Is not asked where it has ended or failed. */
  readonly conclude: () => void
  /** Whether the finish has come, after which nothing but the usage can come. By default `over`. */
  readonly finished?: (() => boolean) | undefined
  /** Whether the answer is whole although the connection breaks now. By default `finished`. */
  readonly whole?: (() => boolean) | undefined
  /** Calls that are whole and have not been handed on. By default none. */
  readonly waiting?: (() => ReadonlyArray<LlmToolCall>) | undefined
}

const none = (): ReadonlyArray<LlmToolCall> => []

export const make = (answer: Assembly, context: CallContext, format: Format): StreamDecoder => {
  const { finished = format.over, waiting = none, whole = finished } = format
  const conclude = () => {
    if (answer.failure === undefined && !answer.ended) format.conclude()
  }
  return {
    push: (bytes) => {
      if (answer.failure !== undefined || format.over()) return []
      format.read(bytes)
      if (format.over()) conclude()
      return answer.take()
    },
    end: () => {
      if (answer.failure === undefined && !format.over()) format.readEnd()
      conclude()
      return answer.take()
    },
    failure: () => answer.failure,
    broken: (cause) => {
      if (answer.failure !== undefined) return answer.failure
      if (whole()) return undefined
      const { hadContent, usage } = answer
      answer.fail(truncatedBy(cause, context, { hadContent, partial: answer.partial(waiting()), usage }))
      return answer.failure
    },
    finished,
    done: () => format.over() || answer.ended,
    partial: () => answer.partial(answer.ended ? [] : waiting()),
    usage: () => answer.usage,
    progress: () => answer.progress
  }
}
