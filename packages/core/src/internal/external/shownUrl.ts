/**
 * URLs as spans and log lines may show them.
 */
import * as Redaction from "../../operations/Redaction.ts"

// Names of secrets that are too common elsewhere to be told by their names alone: keys of Google and of weather services,
// signatures of Azure, keys of Azure Functions.
const secretParameters: ReadonlySet<string> = new Set(["key", "sig", "code", "appid", "app_key", "hmac", "assertion"])

const isSecret = (name: string): boolean => secretParameters.has(name.toLowerCase()) || Redaction.isSecretName(name)

/** The URL without what identifies the caller: user, password, and the values of parameters that name secrets. */
export const show = (url: URL): string => {
  const query = Array.from(
    url.searchParams,
    ([name, value]) =>
      `${encodeURIComponent(name)}=${isSecret(name) ? Redaction.placeholder : encodeURIComponent(value)}`
  ).join("&")
  return Redaction.text(`${url.origin}${url.pathname}${query === "" ? "" : `?${query}`}`)
}

/** The text with the URL in it as it may be shown. Of one that cannot be read, the query is left out. */
export const within = (text: string, url: string): string => {
  if (url === "" || !text.includes(url)) return text
  if (URL.canParse(url)) return text.replaceAll(url, show(new URL(url)))
  const path = url.replace(/[?#][\s\S]*$/, "")
  return path === url ? text : text.replaceAll(url, `${path}?${Redaction.placeholder}`)
}
