/**
 * What others threw, made fit to be the cause of an error that is logged: an error of the same class, name, code and place,
 * without words and values of theirs. `ConnectionError` does this to its cause, and so can any error of your own.
 *
 * @since 0.1.0
 */
import * as internal from "../internal/connection/withheld.ts"

/**
 * The error as it may be shown. Its fields can be read by their names, and none of them is printed, written as JSON or
 * cloned; `message`, `stack`, `cause` and `errors` show no words. Left as they are: texts, what was withheld before, and
 * errors that say with a `_tag` what they are and whose causes are such as well.
 *
 * @since 0.1.0
 * @category combinators
 */
export const withhold: (error: unknown) => unknown = internal.withheld

/**
 * What was withheld, with its words: to be looked at, and not to be logged. Anything else is returned as it is.
 *
 * @since 0.1.0
 * @category combinators
 */
export const originalOf: (error: unknown) => unknown = internal.originalOf
