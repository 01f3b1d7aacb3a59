//! scratch
use conclave_blueprint::*;
use std::io::BufRead;
fn main(){
  let res=std::env::args().nth(1).unwrap();
  for line in std::io::stdin().lock().lines(){ let dir=line.unwrap();
    let c:serde_json::Value=serde_json::from_str(&std::fs::read_to_string(format!("{dir}/case.json")).unwrap_or("{}".into())).unwrap();
    let mut r=FolderResolver::new(std::path::Path::new(&dir)).with_resources(std::path::Path::new(&res));
    if let Some(m)=c["resolver"]["plugin_metadata"].as_object(){ for(k,v) in m { r=r.with_plugin_record(k,PluginRecord{labels:Value::from(&v["labels"]),blueprint_labels:Value::from(&v["blueprint_labels"]),resource_tags:Value::from(&v["resource_tags"])});}}
    let o=Options{validate_version:c["options"]["validate_version"].as_bool().unwrap_or(true),today:None};
    match parse_with(c["main"].as_str().unwrap_or("blueprint.yaml"),&r,&o){
      Ok(p)=>println!("{}",serde_json::json!({"plan":p.to_json()})),
      Err(e)=>{let all:Vec<_>=e.0.iter().map(|d|serde_json::json!([d.class.name(),d.code,d.message,d.path,d.file,d.line,d.column,d.suggestion])).collect();
        println!("{}",serde_json::json!({"error":{"class":e.first().class.name(),"code":e.first().code,"message":e.first().message},"all":all}))}
    }}
}
