/**
 * Whether a runbook is about a question, or only the nearest that there is: a search always finds something, and a
 * question about something else must not be answered as if it were known.
 *
 * @since 0.1.0
 */
import type * as Ranking from "./Ranking.ts"
import type { Runbook } from "./Runbooks.ts"
import { contentWords, isGeneral } from "./Words.ts"

/**
 * How far a question is about a runbook.
 *
 * - `sure`: the runbook speaks of most of what the question names, or of very much of it.
 * - `unsure`: it shares something with the question, and more of the question is about something else.
 * - `nothing`: what they share is by chance.
 *
 * `strange` are the words that no runbook knows, as they were written.
 *
 * @since 0.1.0
 * @category models
 */
export interface Evidence {
  readonly judgement: "sure" | "unsure" | "nothing"
  readonly strange: ReadonlyArray<string>
}

/** A word in the title, the tags or the service says what a runbook is about; one in its steps hardly does. */
const inName = 1
const inLead = 0.7
const inSteps = 0.25

/**
 * The limits. `share` is how much of the question's weight the runbook speaks of, `amount` how much that is, in words
 * that only this runbook has. Half of a question must be known, or as much as a word and a half of it, as in a long
 * account of what happened.
 */
const sureShare = 0.5
const sureAmount = 1.5
const leastShare = 0.2
const leastAmount = 0.5

/**
 * Judges questions about these runbooks. `recognise` says which words of the runbooks a question's words stand for.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  runbooks: ReadonlyArray<Runbook>,
  recognise: Ranking.Index["recognise"]
): ((question: string, runbook: Runbook | undefined) => Evidence) => {
  const stems = (text: string): ReadonlySet<string> => new Set(contentWords(text).map((word) => word.stem))
  const vocabulary = new Map(
    runbooks.map((runbook) => [
      runbook.id,
      {
        name: stems(`${runbook.title} ${runbook.service} ${runbook.tags.join(" ")}`),
        lead: stems(
          runbook.sections
            .filter((section) => section.purpose === "overview" || section.purpose === "symptoms")
            .map((section) => section.text)
            .join("\n")
        ),
        steps: stems(runbook.sections.map((section) => section.text).join("\n"))
      }
    ])
  )
  const all = Array.from(vocabulary.values())
  const inverse = (found: number): number => Math.log(1 + (all.length - found + 0.5) / (found + 0.5))
  /** 1 for a word that no runbook has, next to 0 for one that all have. */
  const rarity = (stem: string | undefined): number => {
    if (stem === undefined) return 1
    const topical = all.filter(({ lead, name }) => name.has(stem) || lead.has(stem)).length
    return inverse(topical > 0 ? topical : all.filter(({ steps }) => steps.has(stem)).length) / inverse(0)
  }

  return (question, runbook) => {
    const own = runbook === undefined ? undefined : vocabulary.get(runbook.id)
    const place = (stem: string): number =>
      own === undefined
        ? 0
        : own.name.has(stem)
          ? inName
          : own.lead.has(stem)
            ? inLead
            : own.steps.has(stem)
              ? inSteps
              : 0
    const seen = new Set<string>()
    const strange: Array<string> = []
    let total = 0
    let shared = 0
    for (const { terms, word } of recognise(question)) {
      // 137 and 502 say something, 2 and 42 do not.
      if (seen.has(word.stem) || isGeneral(word) || /^\d{1,2}$/.test(word.written)) continue
      seen.add(word.stem)
      if (terms.length === 0) {
        // Addresses, counts and versions belong to a question's own case.
        if (/\d/.test(word.written)) continue
        strange.push(word.written)
      }
      const rare = rarity(terms[0]?.stem)
      total += rare
      shared += rare * Math.max(0, ...terms.map(({ stem, weight }) => weight * place(stem)))
    }
    const share = total === 0 ? 0 : shared / total
    const judgement =
      share >= sureShare || shared >= sureAmount
        ? "sure"
        : share >= leastShare || shared >= leastAmount
          ? "unsure"
          : "nothing"
    return { judgement, strange }
  }
}
