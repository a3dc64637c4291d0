/**
 * What the storage format points to with elements of its own (`ri:page`, `ri:user`, `ac:emoticon`), as addresses:
 * `confluence:page?content-title=Home;space-key=DOC#anchor`.
 */
import * as Xml from "./xml.ts"

const scheme = "confluence:"

const encode = (pairs: ReadonlyArray<readonly [string, string]>): string =>
  pairs.map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(Xml.clean(value))}`).join(";")

const decode = (text: string): string | undefined => {
  try {
    return decodeURIComponent(text)
  } catch {
    return undefined
  }
}

/** What stands for a resource that has no text of its own. */
const shownText = (kind: string, attributes: ReadonlyMap<string, string>, anchor: string | undefined): string => {
  const text =
    kind === "user"
      ? `@${attributes.get("account-id") ?? attributes.get("userkey") ?? attributes.get("username") ?? "user"}`
      : kind === "emoticon"
        ? (attributes.get("emoji-fallback") ?? `:${attributes.get("name") ?? "emoticon"}:`)
        : (attributes.get("content-title") ??
          attributes.get("filename") ??
          attributes.get("space-key") ??
          attributes.get("content-id") ??
          attributes.get("key") ??
          anchor ??
          kind)
  return text.replace(/\s+/gu, " ").trim() || kind
}

export interface Resource {
  readonly url: string
  readonly text: string
}

/** The attributes without their prefix; undefined where one has another. */
const bare = (element: Xml.Element, prefix: string): ReadonlyArray<readonly [string, string]> | undefined =>
  element.attributes.every(([name]) => name.startsWith(prefix))
    ? element.attributes.map(([name, value]) => [name.slice(prefix.length), value] as const)
    : undefined

/** The address of a link's target, or undefined where it is not as simple as that. */
export const ofTarget = (target: Xml.Element | undefined, anchor: string | undefined): Resource | undefined => {
  if (target === undefined) {
    return anchor === undefined ? undefined : { url: `#${encodeURIComponent(Xml.clean(anchor))}`, text: anchor }
  }
  const attributes = bare(target, "ri:")
  if (!target.name.startsWith("ri:") || target.children.length > 0 || attributes === undefined) return undefined
  const kind = target.name.slice(3)
  const hash = anchor === undefined ? "" : `#${encodeURIComponent(anchor)}`
  return { url: `${scheme}${kind}?${encode(attributes)}${hash}`, text: shownText(kind, new Map(attributes), anchor) }
}

export const ofEmoticon = (emoticon: Xml.Element): Resource | undefined => {
  const attributes = bare(emoticon, "ac:")
  return attributes === undefined || emoticon.children.length > 0
    ? undefined
    : { url: `${scheme}emoticon?${encode(attributes)}`, text: shownText("emoticon", new Map(attributes), undefined) }
}

export interface Target {
  readonly kind: "emoticon" | "link"
  readonly element: Xml.Element | undefined
  readonly anchor: string | undefined
  readonly text: string
}

const simpleName = /^[A-Za-z][\w.-]{0,60}$/

/** What an address of `ofTarget` or `ofEmoticon` stands for. */
export const read = (url: string): Target | undefined => {
  if (url.startsWith("#") && url.length > 1) {
    const anchor = decode(url.slice(1))
    return anchor === undefined ? undefined : { kind: "link", element: undefined, anchor, text: anchor }
  }
  if (!url.startsWith(scheme)) return undefined
  const hash = url.indexOf("#")
  const anchor = hash < 0 ? undefined : decode(url.slice(hash + 1))
  if (hash >= 0 && anchor === undefined) return undefined
  const rest = url.slice(scheme.length, hash < 0 ? undefined : hash)
  const question = rest.indexOf("?")
  const kind = question < 0 ? rest : rest.slice(0, question)
  if (!simpleName.test(kind)) return undefined
  const attributes: Array<readonly [string, string]> = []
  const query = question < 0 ? "" : rest.slice(question + 1)
  for (const pair of query === "" ? [] : query.split(/[;&]/)) {
    const equals = pair.indexOf("=")
    const name = decode(equals < 0 ? pair : pair.slice(0, equals))
    const value = decode(equals < 0 ? "" : pair.slice(equals + 1))
    if (name === undefined || value === undefined || !simpleName.test(name)) return undefined
    if (attributes.some(([each]) => each === name)) return undefined
    attributes.push([name, value])
  }
  const text = shownText(kind, new Map(attributes), anchor)
  const prefix = kind === "emoticon" ? "ac:" : "ri:"
  const named = attributes.map(([name, value]) => [`${prefix}${name}`, value] as const)
  return {
    kind: kind === "emoticon" ? "emoticon" : "link",
    element: Xml.element(kind === "emoticon" ? "ac:emoticon" : `ri:${kind}`, [], named),
    anchor,
    text
  }
}

/** The address of an attachment as an image's. */
export const ofAttachment = (name: string): string => `attachment:${encodeURIComponent(Xml.clean(name))}`

export const attachmentOf = (url: string): string | undefined =>
  url.startsWith("attachment:") ? decode(url.slice("attachment:".length)) : undefined
