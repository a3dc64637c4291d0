/**
 * Words of a text as search compares them: lower case, stemmed, compounds also in their parts, without the words that
 * say nothing about a topic.
 *
 * @since 0.1.0
 */

const words = (text: string): ReadonlySet<string> => new Set(text.split(/\s+/).filter((word) => word !== ""))

/**
 * Words that carry no topic: articles, pronouns, auxiliaries, and what people write round a question.
 *
 * @since 0.1.0
 * @category models
 */
export const stopWords: ReadonlySet<string> = words(`
  a about above absolutely actual actually after again ain all almost already also always am an and another any anyone anything anyway are aren
  around as at away back basically be because been before being both but by bye came can cannot cant come could couldn
  did didn do does doesn doing don done dont each either else em especially etc even ever every everybody everyone
  everything exactly few finally for from gave get gets getting give given go goes going gonna got guess guys had has hasn have
  haven having he hello help her here hers hey hi him his how however i if ill im in indeed instead into is isn isnt it
  its itself ive just kind kinda know later least less let lets like literally little ll look looks lot lots made make
  makes making many may maybe me mean means might mine more most much must my myself need needs never no nobody none nor
  not nothing now of off often ok okay on once one ones only onto or other others our ours out over own part per perhaps
  please pls plz probably properly put quite rather re really right s said same saw say says see seeing seem seems seen several
  shall she should shouldn since so some somebody somehow someone something sometimes somewhat somewhere soon sort still
  stuff such suddenly suggest sure t take taken tell than thank thanks that thats the their theirs them themselves then
  there these they thing things think this those though three through thru till to today together told tonight too took
  toward tried tries try trying two u until up upon us use used using ve very via want wanted wants was wasn way we well
  went were weren what whatever whats when whenever where wherever whether which while who whoever whole whom whose why
  will wise with within without won wonder would wouldn yeah yes yesterday yet you your yours yourself
`)

const vowel = /[aeiouy]/

/**
 * The stem of an English word: plural, `-ing`, `-ed`, `-ly` and a few noun endings are cut, doubled consonants and the
 * final `e` with them. Two forms of one word meet; the stem itself need not be a word.
 *
 * @since 0.1.0
 * @category combinators
 */
export const stem = (word: string): string => {
  if (word.length < 4 || /\d/.test(word)) return word
  let base = word
  if (base.endsWith("'s")) base = base.slice(0, -2)
  if (/(ss|sh|ch|x|z)es$/.test(base)) base = base.slice(0, -2)
  else if (base.endsWith("ies") && base.length > 4) base = `${base.slice(0, -3)}y`
  else if (base.endsWith("s") && !/(ss|us|is)$/.test(base)) base = base.slice(0, -1)
  for (const ending of ["ization", "ation", "ingly", "edly", "ing", "ed", "ment", "ion", "er", "ly"]) {
    const rest = base.slice(0, -ending.length)
    if (base.endsWith(ending) && rest.length >= 3 && vowel.test(rest)) {
      base = rest
      break
    }
  }
  if (/([bcdfgkmnprt])\1$/.test(base)) base = base.slice(0, -1)
  if (base.length > 4 && base.endsWith("e")) base = base.slice(0, -1)
  if (base.length > 3 && base.endsWith("y")) base = `${base.slice(0, -1)}i`
  return base
}

/** One word of a text as it was written (lower case), and where words that belong together came from. */
const rawWords = (text: string): ReadonlyArray<string> => {
  const found: Array<string> = []
  for (const match of text
    .normalize("NFKC")
    .replaceAll(/[’`]/g, "'")
    .matchAll(/[\p{L}\p{N}]+(?:[_.'/:-][\p{L}\p{N}]+)*/gu)) {
    const whole = match[0]
    const plain = whole.toLowerCase()
    const parts = whole
      .split(/[_.'/:-]|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])/)
      .map((part) => part.toLowerCase())
      .filter((part) => part !== "")
    if (parts.length > 1) {
      if (!/[/:']/.test(plain)) found.push(plain.replaceAll(/[.-]/g, "_"))
      found.push(...parts)
    } else {
      found.push(plain)
    }
  }
  return found
}

/**
 * A word of a question or of a text: how it was written and how it is compared.
 *
 * @since 0.1.0
 * @category models
 */
export interface Word {
  readonly written: string
  readonly stem: string
}

/**
 * The words of a text that carry a topic, in order. `CrashLoopBackOff` and `evicted_keys` stand whole and in parts.
 *
 * @since 0.1.0
 * @category combinators
 */
export const contentWords = (text: string): ReadonlyArray<Word> => {
  const found: Array<Word> = []
  for (const written of rawWords(text)) {
    if (stopWords.has(written) || (written.length < 2 && !/\d/.test(written))) continue
    found.push({ written, stem: stem(written) })
  }
  return found
}

const generalWords: ReadonlySet<string> = new Set(
  Array.from(
    words(`
  prevent avoid future next escalate whom call contact page oncall cause caused causing reason root come why diagnose
  diagnosis investigate find figure verify confirm check debug inspect fix repair resolve solve solution mitigate recover
  remedy rid symptom sign recognize recognise happen happened happening happens again problem issue incident trouble wrong
  broken break breaks thing situation explain explanation detail details example step steps command commands first last
  start begin best fast quickly quick question answer mean help work works working run running show write long short
  possible safe safely sure stop stopped do try risk risky dangerous important urgent bad good better worse new old
  production prod staging environment machine server servers system systems app application applications service
  services user users customer customers team people company today tonight morning weekend
  different same elaborate continue summary summarize summarise hello hi hey thanks welcome test testing
`)
  ).flatMap((word) => [word, stem(word)])
)

/**
 * Whether a word asks for a part of a runbook or says only that something is wrong: such a word names no topic.
 *
 * @since 0.1.0
 * @category combinators
 */
export const isGeneral = (word: Word): boolean => generalWords.has(word.written) || generalWords.has(word.stem)

/**
 * Every word of a text in lower case, those that carry no topic included.
 *
 * @since 0.1.0
 * @category combinators
 */
export const allWords = (text: string): ReadonlyArray<string> => rawWords(text)

/**
 * How many insertions, deletions, replacements and swaps of neighbours make one word of the other; more than `most` is
 * reported as `most + 1` without being counted out.
 *
 * @since 0.1.0
 * @category combinators
 */
export const editDistance = (a: string, b: string, most: number): number => {
  if (Math.abs(a.length - b.length) > most) return most + 1
  let before: Array<number> = []
  let last: Array<number> = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const row: Array<number> = [i]
    let least = i
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1]
      let cost = Math.min((last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (last[j - 1] ?? 0) + (same ? 0 : 1))
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        cost = Math.min(cost, (before[j - 2] ?? 0) + 1)
      }
      row.push(cost)
      least = Math.min(least, cost)
    }
    if (least > most) return most + 1
    before = last
    last = row
  }
  return last[b.length] ?? most + 1
}

const relatedGroups: ReadonlyArray<string> = [
  "db database",
  "pg postgres postgresql psql",
  "k8s kube kubernetes kubectl",
  "cert certificate",
  "ssl tls https",
  "ram memory mem",
  "cpu processor core",
  "disk drive volume storage filesystem",
  "space disk",
  "slow sluggish laggy slowly crawl crawling",
  "stuck hang hanging hung frozen freeze",
  "dns hostname resolve resolver lookup nameserver",
  "deploy deployment rollout release ship shipped",
  "queue backlog broker",
  "pile piling accumulate backlog grow",
  "job message task",
  "worker consumer",
  "throttle throttled ratelimit 429 quota",
  "password secret credential key token login",
  "rotate rotated changed renewed",
  "crash crashing crashed die dies dying exit",
  "restart restarting restarted reboot",
  "kill killed terminate terminated",
  "replica replication replicate standby slave secondary follower",
  "primary master leader",
  "lag behind delay delayed stale outdated",
  "expire expired expiry expiration",
  "full filled exhausted",
  "refuse refused reject rejected deny denied",
  "unreachable unavailable down",
  "connection connect connecting",
  "gateway proxy upstream nginx ingress",
  "timeout timed",
  "pod container",
  "evict evicted eviction",
  "log logs logging"
]

/**
 * Words that operators use for one another (`db` and `database`, `ram` and `memory`), by stem. A question's word also
 * counts, for less, where the text uses one of these.
 *
 * @since 0.1.0
 * @category models
 */
export const related: ReadonlyMap<string, ReadonlySet<string>> = (() => {
  const map = new Map<string, Set<string>>()
  for (const group of relatedGroups) {
    const stems = group.split(" ").map(stem)
    for (const one of stems) {
      const others = map.get(one) ?? new Set<string>()
      for (const other of stems) if (other !== one) others.add(other)
      map.set(one, others)
    }
  }
  return map
})()
