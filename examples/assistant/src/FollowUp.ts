/**
 * What a question means in its conversation: a new topic, something more about the runbook of the answer before ("How do
 * I prevent it?"), or nothing that can be told without asking back.
 *
 * @since 0.1.0
 */
import type { Purpose, Runbook } from "./Runbooks.ts"
import type { Found } from "./Search.ts"
import { allWords, contentWords, isGeneral, type Word } from "./Words.ts"

/**
 * How a question is to be answered.
 *
 * - `Topic`: from what the search found.
 * - `FollowUp`: from this runbook, of the answer before.
 * - `Unclear`: it points at something that was never named; ask what is meant.
 * - `Unknown`: it is about something that the runbooks do not speak of.
 *
 * @since 0.1.0
 * @category models
 */
export type Meaning =
  | { readonly _tag: "Topic"; readonly found: Found; readonly purpose: Purpose | undefined }
  | { readonly _tag: "FollowUp"; readonly runbook: Runbook; readonly purpose: Purpose | undefined }
  | { readonly _tag: "Unclear" }
  | { readonly _tag: "Unknown" }

/** A pointing question stays with its runbook unless another answers it better by more than this. */
const stays = 0.8

const cues: ReadonlyArray<readonly [RegExp, Purpose]> = [
  [
    /\b(prevent\w*|avoid\w*|never again|not happen again|happen(ing)? again|in (the )?future|next time|stop (it|this|that) from)\b/,
    "prevent"
  ],
  [
    /\b(escalat\w*|who (do|should|can|to|must) (i |we )?(call|contact|page|ask|tell|wake)|whom|on-?call|call for help)\b/,
    "escalate"
  ],
  [/\b(why|causes?|caused|causing|reasons?|root cause|come from|comes from)\b/, "causes"],
  [
    /\b(diagnos\w*|investigat\w*|find out|figure out|verify|confirm|check|debug|look at|inspect|make sure|be sure|how (do|can) (i|we) (see|tell|know))\b/,
    "diagnose"
  ],
  [
    /\b(fix\w*|repair\w*|resolv(e|ed|ing)|solv\w*|mitigat\w*|recover\w*|remed\w*|get rid of|roll ?back|what (do|should|can) (i|we) do)\b/,
    "fix"
  ],
  [/\b(symptoms?|signs?|look like|looks like|recogni[sz]e)\b/, "symptoms"]
]

/**
 * Which part of a runbook a question asks for, if it says so.
 *
 * @since 0.1.0
 * @category combinators
 */
export const purposeOf = (question: string): Purpose | undefined => {
  const text = question.toLowerCase().replaceAll("’", "'")
  return cues.find(([pattern]) => pattern.test(text))?.[1]
}

const pointing =
  /\b(it|its|it's|this|that|that's|these|those|them|they|there|same|the (problem|issue|error|incident|thing))\b/

/** The other runbook of the last answer, by place. */
const second = /\b(second|2nd|other) (one|runbook|option|problem)\b|\bthe second\b/

const topicStems = (runbook: Runbook): ReadonlySet<string> =>
  new Set(
    contentWords(`${runbook.title} ${runbook.service} ${runbook.tags.join(" ")}`)
      .filter((word) => !isGeneral(word))
      .map((word) => word.stem)
  )

/**
 * Decides. `current` are the runbooks of the answer before, the cited one first; `recognise` says whether the runbooks
 * know a word at all.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decide = (options: {
  readonly question: string
  readonly current: ReadonlyArray<Runbook>
  readonly found: Found
  readonly recognise: (text: string) => ReadonlyArray<{ readonly word: Word; readonly certainty: number }>
}): Meaning => {
  const text = options.question.toLowerCase().replaceAll("’", "'")
  const purpose = purposeOf(text)
  const points = pointing.test(text)
  const words = options.recognise(options.question).filter(({ word }) => !isGeneral(word))
  const known = words.filter(({ certainty }) => certainty > 0)
  const before = options.current[0]

  const other = options.current[1]
  // "second" is a word of the runbooks, too: seconds.
  if (
    other !== undefined &&
    second.test(text) &&
    options.recognise(text.replace(second, " ")).every(({ certainty, word }) => certainty === 0 || isGeneral(word))
  ) {
    return { _tag: "FollowUp", runbook: other, purpose }
  }
  if (known.length === 0) {
    // "what is the weather in Paris" points at nothing; "how do I stop it from exploding" does.
    if (words.length > 0 && !points && purpose === undefined) return { _tag: "Unknown" }
    if (before === undefined) return { _tag: "Unclear" }
    const asks = points || purpose !== undefined || allWords(text).length > 1
    return asks ? { _tag: "FollowUp", runbook: before, purpose } : { _tag: "Unclear" }
  }
  if (before !== undefined && (points || purpose !== undefined || startsOn(text)) && known.length <= 5) {
    const names = topicStems(before)
    const topics = known.filter(({ word }) =>
      options.found.runbooks.some((hit) => topicStems(hit.runbook).has(word.stem))
    )
    const best = options.found.runbooks[0]
    const here = options.found.runbooks.find((hit) => hit.runbook.id === before.id)
    const ofThis = topics.every(({ word }) => names.has(word.stem))
    if (ofThis || (best !== undefined && here !== undefined && here.score >= stays * best.score)) {
      return { _tag: "FollowUp", runbook: before, purpose }
    }
  }
  if (options.found.evidence.judgement === "nothing") {
    return before !== undefined && points ? { _tag: "FollowUp", runbook: before, purpose } : { _tag: "Unknown" }
  }
  return { _tag: "Topic", found: options.found, purpose }
}

/** "and the replicas?", "what about the logs?" */
const startsOn = (text: string): boolean => /^\s*(and|but|or|so|then|also|what about|how about|what if)\b/.test(text)
